#include "core/text/tokenizer_parts.h"

#include <charconv>

#include "core/base/error.h"
#include "fmt/format.h"

namespace octavo {

absl::Status ClaimId(int32_t id, std::string_view token, std::string_view file,
                     TokenizerParts* parts) {
  if (token.empty() || token.size() > kTokenBytesMax) {
    return MakeError(
        Reason::kBadCheckpoint,
        fmt::format("token {} has {} bytes; 1 to {}", id, token.size(), kTokenBytesMax),
        {.file = file});
  }
  const auto index = static_cast<size_t>(id);
  if (parts->written.size() <= index) parts->written.resize(index + 1);
  std::string& slot = parts->written[index];
  if (!slot.empty() && slot != token) {
    return MakeError(Reason::kBadCheckpoint,
                     fmt::format("\"{}\" and \"{}\" have the same id {}", slot, token, id),
                     {.file = file});
  }
  slot = std::string(token);
  return absl::OkStatus();
}

std::optional<uint8_t> ByteOfToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  uint8_t byte = 0;
  const auto read = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
  if (read.ec != std::errc() || read.ptr != token.data() + 5) return std::nullopt;
  return byte;
}

std::string TokenOfByte(uint8_t byte) { return fmt::format("<0x{:02X}>", byte); }

}  // namespace octavo
