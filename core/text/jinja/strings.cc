#include "core/text/jinja/strings.h"

#include <string.h>

#include <algorithm>

#include "core/base/status.h"
#include "core/text/jinja/unicode.h"
#include "core/text/jinja/value.h"
#include "core/text/utf8.h"
#include "fmt/format.h"

namespace octavo::jinja {
namespace {

bool IsAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

bool IsSpaceAt(std::string_view text, size_t* size) {
  const Utf8Char next = DecodeUtf8(text);
  *size = next.size;
  return next.state == Utf8State::kValid && IsPythonSpace(next.code);
}

// The character that ends where `text` ends.
std::string_view LastCharacter(std::string_view text) {
  for (size_t back = std::min<size_t>(4, text.size()); back > 1; --back) {
    const std::string_view tail = text.substr(text.size() - back);
    const Utf8Char next = DecodeUtf8(tail);
    if (next.state == Utf8State::kValid && next.size == back) return tail;
  }
  return text.substr(text.size() - 1);
}

bool IsLineEnd(char32_t code) {
  return (code >= 0x0a && code <= 0x0d) || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
         code == 0x2028 || code == 0x2029;
}

char SwappedAscii(char c) {
  if (c >= 'a' && c <= 'z') return static_cast<char>(c - 'a' + 'A');
  if (c >= 'A' && c <= 'Z') return static_cast<char>(c - 'A' + 'a');
  return c;
}

absl::Status CheckCase(std::string_view text) {
  if (IsAscii(text)) return absl::OkStatus();
  return RenderError("the case of letters outside ASCII is not handled");
}

}  // namespace

int64_t CountCharacters(std::string_view text) {
  if (IsAscii(text)) return static_cast<int64_t>(text.size());
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) at += DecodeUtf8(text.substr(at)).size;
  return count;
}

size_t ByteOf(std::string_view text, int64_t character) {
  size_t at = 0;
  for (; character > 0 && at < text.size(); --character) at += DecodeUtf8(text.substr(at)).size;
  return at;
}

std::vector<std::string_view> Characters(std::string_view text) {
  std::vector<std::string_view> characters;
  for (size_t at = 0; at < text.size();) {
    const size_t size = DecodeUtf8(text.substr(at)).size;
    characters.push_back(text.substr(at, size));
    at += size;
  }
  return characters;
}

size_t Find(std::string_view text, std::string_view part, size_t from) {
  if (from > text.size()) return std::string::npos;
  if (part.empty()) return from;
  const void* found = memmem(text.data() + from, text.size() - from, part.data(), part.size());
  if (found == nullptr) return std::string::npos;
  return static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

bool IsPythonSpace(char32_t code) { return IsWhiteSpace(code) || (code >= 0x1c && code <= 0x1f); }

std::string_view Strip(std::string_view text, std::optional<std::string_view> set,
                       StripSides sides) {
  std::vector<std::string_view> members;
  if (set) members = Characters(*set);
  auto goes = [&](std::string_view character) {
    size_t size;
    if (!set) return IsSpaceAt(character, &size);
    return std::find(members.begin(), members.end(), character) != members.end();
  };
  while (sides.left && !text.empty()) {
    const size_t size = DecodeUtf8(text).size;
    if (!goes(text.substr(0, size))) break;
    text.remove_prefix(size);
  }
  while (sides.right && !text.empty()) {
    const std::string_view last = LastCharacter(text);
    if (!goes(last)) break;
    text.remove_suffix(last.size());
  }
  return text;
}

std::string Capitalized(std::string_view text) {
  if (text.empty()) return "";
  const Utf8Char first = DecodeUtf8(text);
  std::string out;
  if (first.state == Utf8State::kValid) {
    AppendCased(first.code, Case::kTitle, &out);
  } else {
    out += text.substr(0, first.size);
  }
  // Lowered with its first character, which may decide about a sigma.
  const std::string lower = WithCase(text, Case::kLower);
  std::string lower_first;
  if (first.state == Utf8State::kValid) {
    AppendCased(first.code, Case::kLower, &lower_first);
  } else {
    lower_first = text.substr(0, first.size);
  }
  return out + lower.substr(lower_first.size());
}

absl::StatusOr<std::string> SwappedCase(std::string_view text) {
  OCTAVO_RETURN_IF_ERROR(CheckCase(text));
  std::string out(text);
  for (char& c : out) c = SwappedAscii(c);
  return out;
}

absl::StatusOr<std::string> Titled(std::string_view text) {
  OCTAVO_RETURN_IF_ERROR(CheckCase(text));
  std::string out = WithCase(text, Case::kLower);
  bool in_word = false;
  for (char& c : out) {
    const bool letter = c >= 'a' && c <= 'z';
    if (letter && !in_word) c = SwappedAscii(c);
    in_word = letter;
  }
  return out;
}

std::vector<std::string_view> Split(std::string_view text,
                                    std::optional<std::string_view> separator, int64_t splits_max) {
  std::vector<std::string_view> parts;
  auto may_split = [&] {
    return splits_max < 0 || static_cast<int64_t>(parts.size()) < splits_max;
  };
  if (separator) {
    size_t begin = 0;
    while (may_split()) {
      const size_t found = Find(text, *separator, begin);
      if (found == std::string::npos) break;
      parts.push_back(text.substr(begin, found - begin));
      begin = found + separator->size();
    }
    parts.push_back(text.substr(begin));
    return parts;
  }
  while (true) {
    text = Strip(text, {}, {.right = false});
    if (text.empty()) return parts;
    size_t end = 0;
    size_t size = 0;
    while (end < text.size() && !IsSpaceAt(text.substr(end), &size)) end += size;
    if (!may_split()) end = text.size();
    parts.push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

std::vector<std::string_view> SplitFromRight(std::string_view text,
                                             std::optional<std::string_view> separator,
                                             int64_t splits_max) {
  if (splits_max < 0) return Split(text, separator, -1);
  std::vector<std::string_view> parts;
  auto may_split = [&] { return static_cast<int64_t>(parts.size()) < splits_max; };
  if (separator) {
    while (may_split()) {
      const size_t found = text.rfind(*separator);
      if (found == std::string::npos) break;
      parts.push_back(text.substr(found + separator->size()));
      text = text.substr(0, found);
    }
    parts.push_back(text);
  } else {
    while (true) {
      text = Strip(text, {}, {.left = false});
      if (text.empty()) break;
      size_t begin = text.size();
      size_t size = 0;
      while (begin > 0) {
        const std::string_view last = LastCharacter(text.substr(0, begin));
        if (IsSpaceAt(last, &size)) break;
        begin -= last.size();
      }
      if (!may_split()) begin = 0;
      parts.push_back(text.substr(begin));
      text = text.substr(0, begin);
    }
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

size_t LinesMax(std::string_view text) {
  // The bytes that a line end begins with.
  return 1 + static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
           return (c >= 0x0a && c <= 0x0d) || (c >= 0x1c && c <= 0x1e) || c == '\xc2' ||
                  c == '\xe2';
         }));
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = DecodeUtf8(text.substr(at));
    size_t after = at + next.size;
    if (next.state == Utf8State::kValid && IsLineEnd(next.code)) {
      if (next.code == '\r' && after < text.size() && text[after] == '\n') ++after;
      lines.push_back(text.substr(begin, (keep_ends ? after : at) - begin));
      begin = after;
    }
    at = after;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::optional<std::string> Replace(std::string_view text, std::string_view old,
                                   std::string_view with, int64_t count, size_t bytes_max) {
  std::string out;
  size_t at = 0;
  for (; count != 0; --count) {
    size_t found = Find(text, old, at);
    if (found == std::string::npos) break;
    out += text.substr(at, found - at);
    out += with;
    at = found + old.size();
    if (old.empty()) {  // before every character and at the end
      if (at == text.size()) return out;
      const size_t size = DecodeUtf8(text.substr(at)).size;
      out += text.substr(at, size);
      at += size;
      if (at == text.size() && count != 1) {
        out += with;
        break;
      }
    }
    if (out.size() > bytes_max) return std::nullopt;
  }
  out += text.substr(at);
  if (out.size() > bytes_max) return std::nullopt;
  return out;
}

}  // namespace octavo::jinja
