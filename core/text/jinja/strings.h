#pragma once

// Text as Python's str: a sequence of code points, stored as UTF-8. Indices count characters;
// anything that is not UTF-8 counts part by part.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace octavo::jinja {

int64_t CountCharacters(std::string_view text);
// The byte at which the character with this index begins; text.size() beyond the end.
size_t ByteOf(std::string_view text, int64_t character);
// The text of each character.
std::vector<std::string_view> Characters(std::string_view text);

// Where `part` begins at or after `from`, in time linear in the text; npos if nowhere.
size_t Find(std::string_view text, std::string_view part, size_t from);

// str.isspace(), which str.strip() goes by: White_Space, and the separators U+001C to U+001F.
bool IsPythonSpace(char32_t code);

// str.strip(), lstrip(), rstrip(): of white space, or of the characters in `set`.
struct StripSides {
  bool left = true;
  bool right = true;
};
std::string_view Strip(std::string_view text, std::optional<std::string_view> set = {},
                       StripSides sides = {});

// str.capitalize(), swapcase(), and title(). Errors: the last two outside ASCII.
std::string Capitalized(std::string_view text);
absl::StatusOr<std::string> SwappedCase(std::string_view text);
absl::StatusOr<std::string> Titled(std::string_view text);

// str.split(): at white space if there is no separator. `splits_max` < 0: no limit.
std::vector<std::string_view> Split(std::string_view text,
                                    std::optional<std::string_view> separator, int64_t splits_max);
std::vector<std::string_view> SplitFromRight(std::string_view text,
                                             std::optional<std::string_view> separator,
                                             int64_t splits_max);
// str.splitlines(), and a bound of the number of lines.
size_t LinesMax(std::string_view text);
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);

// str.replace(); `count` < 0: all. nullopt if the result would have more than `bytes_max` bytes.
std::optional<std::string> Replace(std::string_view text, std::string_view old,
                                   std::string_view with, int64_t count, size_t bytes_max);

}  // namespace octavo::jinja
