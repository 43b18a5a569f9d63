#pragma once

// UTF-8, decoded the way every lossy decoder of the Unicode Standard (table 3-7 and the practice
// recommended there) does it: each maximal part of an ill-formed sequence counts as one U+FFFD.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace octavo {

inline constexpr char32_t kReplacementChar = 0xfffd;
inline constexpr std::string_view kReplacementUtf8 = "\xef\xbf\xbd";

enum class Utf8State {
  kValid,       // a whole character
  kIncomplete,  // the text ends inside what may still become a character
  kInvalid,     // no continuation can make this a character
};

struct Utf8Char {
  Utf8State state = Utf8State::kValid;
  char32_t code = 0;  // only for kValid
  size_t size = 0;    // bytes of the character, or of the maximal incomplete or invalid part; >= 1
};

// The first character of `text`. REQUIRES: !text.empty().
Utf8Char DecodeUtf8(std::string_view text);

// The last character of `text`, valid UTF-8. REQUIRES: !text.empty().
std::string_view LastCharacter(std::string_view text);

bool IsUtf8(std::string_view text);

// REQUIRES: a Unicode scalar value.
void AppendUtf8(char32_t code, std::string* out);

// `text` with every maximal ill-formed part, and an incomplete end, replaced by U+FFFD.
std::string LossyUtf8(std::string_view text);

// The White_Space property. (Python's str.strip() takes more: see jinja/strings.h.)
bool IsWhiteSpace(char32_t code);

}  // namespace octavo
