#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/text/regex.h"
#include "core/text/unicode_additions.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr std::string_view kSpaceMembers =
    R"(\t-\r\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNotSpaceMembers =
    R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff})"
    R"(\x{200b}-\x{2027}\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

template <size_t N>
std::string WithAdded(std::string_view known, const std::array<CodeRange, N>& added) {
  std::string members(known);
  for (const CodeRange& range : added) {
    members += fmt::format(R"(\x{{{:x}}}-\x{{{:x}}})", static_cast<uint32_t>(range.first),
                           static_cast<uint32_t>(range.last));
  }
  return members;
}

absl::Status Unsupported(std::string_view what, std::string_view pattern) {
  return MakeError(Reason::kUnsupported,
                   fmt::format("{} in the regular expression '{}' is not handled", what, pattern),
                   {.file = "tokenizer.json"});
}

// One escape sequence at the start of `rest` ("\\s..."): what it becomes, and its length.
struct Escape {
  std::string members;   // of a class; empty: copied as it is
  bool negated = false;  // the class is the complement of the members
  size_t size = 2;
};

absl::StatusOr<Escape> ReadEscape(std::string_view rest, std::string_view pattern) {
  if (rest.size() < 2) return Escape{"", false, rest.size()};  // PCRE2 will complain
  const char letter = rest[1];
  switch (letter) {
    case 's':
      return Escape{std::string(kSpaceMembers)};
    case 'S':
      return Escape{std::string(kNotSpaceMembers)};
    case 'd':
    case 'D':
      return Escape{WithAdded(R"(\p{Nd})", kDecimalsAdded), letter == 'D'};
    case 'r':
    case 'n':
    case 't':
    case 'f':
      return Escape{};
    case 'p':
    case 'P': {
      const size_t end = rest.find('}');
      const std::string_view name = rest.substr(0, end == rest.npos ? rest.size() : end + 1);
      if (name.substr(2) == "{L}") {
        return Escape{WithAdded(R"(\p{L})", kLettersAdded), letter == 'P', name.size()};
      }
      if (name.substr(2) == "{N}") {
        return Escape{WithAdded(R"(\p{N})", kNumbersAdded), letter == 'P', name.size()};
      }
      return Unsupported(name, pattern);
    }
    default: {
      const bool word = (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') ||
                        (letter >= '0' && letter <= '9') ||
                        static_cast<unsigned char>(letter) > 127;
      if (word) return Unsupported(fmt::format("the escape \\{}", letter), pattern);
      return Escape{};
    }
  }
}

// Syntax outside of classes that Oniguruma reads in another way than PCRE2: ^ and $ (lines, not
// text), {,n}, a quantifier after {n,m} (a repeat of the repeat, not a possessive one), verbs and
// the kinds of groups that only one of them has. Empty: none of it here.
std::string_view DifferentSyntax(std::string_view rest) {
  constexpr std::array<std::string_view, 7> kGroups = {"(?:",  "(?i:", "(?=", "(?!",
                                                       "(?<=", "(?<!", "(?>"};
  switch (rest[0]) {
    case '^':
    case '$':
      return rest.substr(0, 1);
    case '{':
      return rest.starts_with("{,") ? rest.substr(0, 2) : "";
    case '}':
      return rest.starts_with("}+") || rest.starts_with("}?") || rest.starts_with("}*")
                 ? rest.substr(0, 2)
                 : "";
    case '(': {
      if (rest.starts_with("(*")) return rest.substr(0, 2);
      if (!rest.starts_with("(?")) return "";
      const bool known = std::any_of(kGroups.begin(), kGroups.end(), [&](std::string_view group) {
        return rest.starts_with(group);
      });
      return known ? "" : rest.substr(0, 3);
    }
    default:
      return "";
  }
}

}  // namespace

absl::StatusOr<std::string> RewriteForPcre2(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size();) {
    const char c = pattern[i];
    const std::string_view rest = pattern.substr(i);
    if (c == '\\') {
      OCTAVO_ASSIGN_OR_RETURN(const Escape escape, ReadEscape(rest, pattern));
      const std::string_view written = rest.substr(0, escape.size);
      i += escape.size;
      if (escape.members.empty()) {
        out += written;
      } else if (!in_class) {
        out += fmt::format("[{}{}]", escape.negated ? "^" : "", escape.members);
      } else if (escape.negated) {
        return Unsupported(fmt::format("{} inside a class", written), pattern);
      } else {
        out += escape.members;
      }
      continue;
    }
    if (in_class) {
      if (c == '[' || rest.starts_with("&&")) return Unsupported("a class operation", pattern);
      if (c == ']') in_class = false;
    } else if (const std::string_view different = DifferentSyntax(rest); !different.empty()) {
      return Unsupported(different, pattern);
    } else if (c == '[') {
      if (rest.starts_with("[]") || rest.starts_with("[^]")) {
        return Unsupported("a class that starts with ]", pattern);
      }
      in_class = true;
    }
    out += c;
    ++i;
  }
  return out;
}

}  // namespace octavo
