#pragma once

// What Python knows of single characters: whether repr() shows them, and their other case.

#include <string>
#include <string_view>

namespace octavo::jinja {

// str.isprintable() of one character.
bool IsPrintable(char32_t code);

enum class Case { kLower, kUpper, kTitle };
// Appends one character in this case, which may be several characters. Sigma at the end of a word
// is up to the caller.
void AppendCased(char32_t code, Case to, std::string* out);

// str.lower(), str.upper().
std::string WithCase(std::string_view text, Case to);

}  // namespace octavo::jinja
