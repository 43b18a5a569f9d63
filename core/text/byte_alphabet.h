#pragma once

// The alphabet in which byte-level vocabularies are written: every byte has a printable character.
// 0x21-0x7e, 0xa1-0xac and 0xae-0xff stand for themselves (as code points); the other 68 bytes, in
// order, are U+0100 to U+0143. A space is "Ġ", a line feed "Ċ".

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace octavo {

char32_t ByteToChar(uint8_t byte);
std::optional<uint8_t> CharToByte(char32_t code);

// The bytes that a word in the alphabet stands for; nothing if a character is not in it (then the
// word is not byte-level, as an added token with a space in it). REQUIRES: valid UTF-8.
std::optional<std::string> BytesOfWord(std::string_view word);
std::string WordOfBytes(std::string_view bytes);

}  // namespace octavo
