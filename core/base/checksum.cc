#include "core/base/checksum.h"

#include <charconv>

#include "core/base/status.h"
#include "fmt/format.h"
#include "xxhash.h"

namespace octavo {

std::string Digest128::Hex() const { return fmt::format("{:016x}{:016x}", high, low); }

std::optional<Digest128> Digest128::FromHex(std::string_view hex) {
  if (hex.size() != 32) return std::nullopt;
  Digest128 digest;
  auto parse = [](std::string_view half, uint64_t* out) {
    const auto result = std::from_chars(half.data(), half.data() + half.size(), *out, 16);
    return result.ec == std::errc() && result.ptr == half.data() + half.size();
  };
  if (!parse(hex.substr(0, 16), &digest.high) || !parse(hex.substr(16), &digest.low))
    return std::nullopt;
  return digest;
}

Digest128 DigestOf(std::span<const std::byte> bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

Digest128 DigestOf(std::string_view bytes) { return DigestOf(std::as_bytes(std::span(bytes))); }

struct DigestStream::State {
  State() : xxh(XXH3_createState()) { OCTAVO_CHECK(xxh != nullptr); }
  ~State() { XXH3_freeState(xxh); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  XXH3_state_t* xxh;
};

DigestStream::DigestStream() : state_(std::make_unique<State>()) {
  XXH3_128bits_reset(state_->xxh);
}
DigestStream::~DigestStream() = default;
DigestStream::DigestStream(DigestStream&&) noexcept = default;
DigestStream& DigestStream::operator=(DigestStream&&) noexcept = default;

void DigestStream::Add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
}
void DigestStream::Add(std::string_view bytes) { Add(std::as_bytes(std::span(bytes))); }

Digest128 DigestStream::Finish() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  return {hash.low64, hash.high64};
}

}  // namespace octavo
