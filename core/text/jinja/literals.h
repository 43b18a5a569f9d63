#pragma once

// String and number literals of expressions, as Python reads them.

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/text/jinja/value.h"

namespace octavo::jinja {

// The bytes of the number that `text` begins with; 0 if it begins with none.
size_t NumberSize(std::string_view text);
// Errors: an integer beyond 64 bits.
absl::StatusOr<Value> ReadNumber(std::string_view number);

// The bytes of the string literal that `text` begins with, quotes included; 0 if it has no end.
size_t StringSize(std::string_view text);
// What stands between the quotes, without its escapes. Errors: \N{...}, a lone surrogate, a
// truncated \x, \u or \U.
absl::StatusOr<std::string> ReadString(std::string_view inside);

}  // namespace octavo::jinja
