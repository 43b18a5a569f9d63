#include "core/text/jinja/literals.h"

#include <charconv>
#include <cstdlib>

#include "core/base/status.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

bool IsDigitOf(char c, int base) {
  if (c >= '0' && c <= '9') return c - '0' < base;
  const char lower = static_cast<char>(c | 0x20);
  return base == 16 && lower >= 'a' && lower <= 'f';
}

// Digits, with single underscores between them.
size_t DigitsSize(std::string_view text, int base) {
  size_t size = 0;
  while (size < text.size()) {
    const bool underscore = size > 0 && text[size] == '_' && size + 1 < text.size();
    if (IsDigitOf(text[size + (underscore ? 1 : 0)], base)) {
      size += underscore ? 2 : 1;
    } else {
      break;
    }
  }
  return size;
}

int BaseOf(std::string_view number) {
  if (number.size() < 2 || number[0] != '0') return 10;
  const char mark = static_cast<char>(number[1] | 0x20);
  return mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 10;
}

// The bytes of a float that `text` begins with: digits, then a fraction or an exponent or both.
size_t FloatSize(std::string_view text) {
  size_t size = DigitsSize(text, 10);
  if (size == 0) return 0;
  bool is_float = false;
  if (size + 1 < text.size() && text[size] == '.') {
    const size_t fraction = DigitsSize(text.substr(size + 1), 10);
    if (fraction > 0) {
      size += 1 + fraction;
      is_float = true;
    }
  }
  if (size < text.size() && (text[size] | 0x20) == 'e') {
    const bool sign = size + 1 < text.size() && (text[size + 1] == '+' || text[size + 1] == '-');
    const size_t digits = size + (sign ? 2 : 1);
    const size_t exponent = digits < text.size() ? DigitsSize(text.substr(digits), 10) : 0;
    if (exponent > 0) {
      size = digits + exponent;
      is_float = true;
    }
  }
  return is_float ? size : 0;
}

std::string WithoutUnderscores(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c != '_') out += c;
  }
  return out;
}

struct Escape {
  std::string text;
  size_t size;  // of the escape in the source, without the backslash
};

absl::StatusOr<Escape> ReadHex(std::string_view text, size_t digits) {
  uint32_t code = 0;
  const char* begin = text.data() + 1;
  const bool enough = text.size() > digits;
  if (!enough || std::from_chars(begin, begin + digits, code, 16).ptr != begin + digits) {
    return RenderError(fmt::format("truncated \\{} escape", text[0]));
  }
  if (code >= 0x110000 || (code >= 0xd800 && code < 0xe000)) {
    return RenderError("an escape that is no character");
  }
  Escape escape{.text = {}, .size = digits + 1};
  AppendUtf8(code, &escape.text);
  return escape;
}

Escape ReadOctal(std::string_view text) {
  char32_t code = 0;
  size_t size = 0;
  while (size < 3 && size < text.size() && IsDigitOf(text[size], 8)) {
    code = code * 8 + static_cast<char32_t>(text[size++] - '0');
  }
  Escape escape{.text = {}, .size = size};
  AppendUtf8(code, &escape.text);
  return escape;
}

// After a backslash a character outside ASCII stays as its own number: Jinja turns it into an
// escape before it reads escapes, and the backslash takes that one's.
Escape ReadNumbered(std::string_view text) {
  const Utf8Char next = DecodeUtf8(text);
  const auto code = static_cast<uint32_t>(next.code);
  const char* form = code <= 0xff ? "\\x{:02x}" : code <= 0xffff ? "\\u{:04x}" : "\\U{:08x}";
  return {fmt::format(fmt::runtime(form), code), next.size};
}

// `text` begins after the backslash.
absl::StatusOr<Escape> ReadEscape(std::string_view text) {
  constexpr std::string_view kNames = "\n\\'\"abfnrtv";
  constexpr std::string_view kValues[] = {"",   "\\", "'",  "\"", "\a", "\b",
                                          "\f", "\n", "\r", "\t", "\v"};
  const char c = text[0];
  if (const size_t named = kNames.find(c); named != kNames.npos) {
    return Escape{std::string(kValues[named]), 1};
  }
  if (IsDigitOf(c, 8)) return ReadOctal(text);
  if (c == 'x') return ReadHex(text, 2);
  if (c == 'u') return ReadHex(text, 4);
  if (c == 'U') return ReadHex(text, 8);
  if (c == 'N') return RenderError("the escape \\N is not handled");
  if (static_cast<unsigned char>(c) >= 0x80) return ReadNumbered(text);
  return Escape{std::string("\\") + c, 1};
}

}  // namespace

size_t NumberSize(std::string_view text) {
  if (const size_t size = FloatSize(text)) return size;
  if (const int base = BaseOf(text); base != 10) {
    // An underscore may follow the mark.
    const size_t begin = text.size() > 2 && text[2] == '_' ? 3 : 2;
    const size_t digits = DigitsSize(text.substr(std::min(begin, text.size())), base);
    if (digits > 0) return begin + digits;
  }
  if (!text.empty() && text[0] == '0') {  // zeros only: 07 is 0 and then 7
    size_t size = 1;
    while (size < text.size() && (text[size] == '0' || text.substr(size, 2) == "_0")) {
      size += text[size] == '0' ? 1 : 2;
    }
    return size;
  }
  return DigitsSize(text, 10);
}

absl::StatusOr<Value> ReadNumber(std::string_view number) {
  const std::string digits = WithoutUnderscores(number);
  if (FloatSize(number) == number.size()) {
    return Value::Of(std::strtod(digits.c_str(), nullptr));
  }
  const int base = BaseOf(digits);
  int64_t value = 0;
  const char* begin = digits.data() + (base == 10 ? 0 : 2);
  if (std::from_chars(begin, digits.data() + digits.size(), value, base).ec != std::errc()) {
    return RenderError("an integer beyond 64 bits");
  }
  return Value::Int(value);
}

size_t StringSize(std::string_view text) {
  for (size_t at = 1; at < text.size(); ++at) {
    if (text[at] == '\\') {
      ++at;
    } else if (text[at] == text[0]) {
      return at + 1;
    }
  }
  return 0;
}

absl::StatusOr<std::string> ReadString(std::string_view inside) {
  std::string out;
  while (!inside.empty()) {
    const size_t plain = std::min(inside.find('\\'), inside.size());
    out += inside.substr(0, plain);
    inside.remove_prefix(plain);
    if (inside.empty()) break;
    inside.remove_prefix(1);
    if (inside.empty()) return RenderError("a backslash at the end of a string");
    OCTAVO_ASSIGN_OR_RETURN(const Escape escape, ReadEscape(inside));
    out += escape.text;
    inside.remove_prefix(escape.size);
  }
  return out;
}

}  // namespace octavo::jinja
