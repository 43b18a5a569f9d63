#include "core/text/byte_alphabet.h"

#include <array>

#include "core/text/utf8.h"

namespace octavo {
namespace {

constexpr int kCodeEnd = 0x144;
constexpr int16_t kNone = -1;

struct Tables {
  std::array<char32_t, 256> char_of = {};
  std::array<int16_t, kCodeEnd> byte_of = {};
};

constexpr Tables MakeTables() {
  Tables tables;
  tables.byte_of.fill(kNone);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool itself = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
                        (byte >= 0xae && byte <= 0xff);
    const char32_t code = itself ? static_cast<char32_t>(byte) : next++;
    tables.char_of[static_cast<size_t>(byte)] = code;
    tables.byte_of[code] = static_cast<int16_t>(byte);
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

}  // namespace

char32_t ByteToChar(uint8_t byte) { return kTables.char_of[byte]; }

std::optional<uint8_t> CharToByte(char32_t code) {
  if (code >= kCodeEnd || kTables.byte_of[code] == kNone) return std::nullopt;
  return static_cast<uint8_t>(kTables.byte_of[code]);
}

std::optional<std::string> BytesOfWord(std::string_view word) {
  std::string out;
  while (!word.empty()) {
    const Utf8Char next = DecodeUtf8(word);
    const auto byte = next.state == Utf8State::kValid ? CharToByte(next.code) : std::nullopt;
    if (!byte) return std::nullopt;
    out.push_back(static_cast<char>(*byte));
    word.remove_prefix(next.size);
  }
  return out;
}

std::string WordOfBytes(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) AppendUtf8(ByteToChar(static_cast<uint8_t>(c)), &out);
  return out;
}

}  // namespace octavo
