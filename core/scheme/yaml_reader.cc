#include "core/scheme/yaml_reader.h"

#include <array>
#include <charconv>
#include <cstdint>
#include <set>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

// Well-formed UTF-8 without control characters: what may go into messages and files unchanged.
bool IsPlainText(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x20 || lead == 0x7f) return false;
    const int extra = lead < 0x80 ? 0 : lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc2 ? 1 : -1;
    if (extra < 0 || lead > 0xf4 || i + extra >= text.size()) return false;
    uint32_t code = extra == 0 ? lead : lead & (0x3f >> extra);
    for (int k = 1; k <= extra; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xc0) != 0x80) return false;
      code = (code << 6) | (next & 0x3f);
    }
    constexpr std::array<uint32_t, 4> kLeast = {0, 0x80, 0x800, 0x10000};
    if (code < kLeast[extra] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    i += 1 + extra;
  }
  return true;
}

// The whole of a scalar as a number.
template <typename Value>
bool ReadsAs(const YAML::Node& node, Value* value) {
  if (!node.IsScalar()) return false;
  const std::string& text = node.Scalar();
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, *value);
  return result.ec == std::errc() && result.ptr == end;
}

}  // namespace

std::string YamlReader::Place(const YAML::Mark& mark) const {
  return mark.is_null() ? file_ : fmt::format("{}:{}", file_, mark.line + 1);
}

absl::Status YamlReader::Error(const YAML::Mark& mark, std::string_view what,
                               std::string_view cure) const {
  return MakeError(Reason::kBadRecipe, fmt::format("{}: {}", Place(mark), what), {}, cure);
}

absl::Status YamlReader::ReadMap(const YAML::Node& node, std::string_view what,
                                 std::span<const Key> keys) const {
  if (!node.IsMap()) return Error(node.Mark(), fmt::format("{} must be a mapping", what));
  std::set<std::string_view> seen;
  for (const auto& entry : node) {
    if (!entry.first.IsScalar()) return Error(entry.first.Mark(), "a key must be a plain word");
    const std::string& name = entry.first.Scalar();
    const Key* found = nullptr;
    std::vector<std::string_view> names;
    for (const Key& key : keys) {
      names.push_back(key.name);
      if (key.name == name) found = &key;
    }
    if (found == nullptr) {
      return Error(entry.first.Mark(), fmt::format("unknown key in {}", what),
                   fmt::format("Known keys: {}", fmt::join(names, ", ")));
    }
    if (!seen.insert(found->name).second) {
      return Error(entry.first.Mark(), fmt::format("key '{}' appears twice", found->name));
    }
    OCTAVO_RETURN_IF_ERROR(found->read(entry.second));
  }
  for (const Key& key : keys) {
    if (key.required && !seen.contains(key.name)) {
      return Error(node.Mark(), fmt::format("{} lacks the key '{}'", what, key.name));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> YamlReader::Text(const YAML::Node& node, std::string_view what,
                                             size_t bytes_max) const {
  if (!node.IsScalar()) return Error(node.Mark(), fmt::format("{} must be plain text", what));
  const std::string& text = node.Scalar();
  if (text.empty() || text.size() > bytes_max || !IsPlainText(text)) {
    return Error(node.Mark(),
                 fmt::format("{} must be one line of 1 to {} bytes of UTF-8", what, bytes_max));
  }
  return text;
}

absl::StatusOr<size_t> YamlReader::Word(const YAML::Node& node, std::string_view kind,
                                        std::span<const std::string_view> names) const {
  constexpr size_t kWordBytesMax = 64;
  OCTAVO_ASSIGN_OR_RETURN(const std::string word, Text(node, kind, kWordBytesMax));
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == word) return i;
  }
  return Error(node.Mark(), fmt::format("{} '{}' is not known", kind, word),
               fmt::format("Known: {}", fmt::join(names, ", ")));
}

absl::StatusOr<int> YamlReader::Number(const YAML::Node& node, std::string_view what,
                                       int max) const {
  int value = 0;
  if (ReadsAs(node, &value) && value > 0 && value <= max) return value;
  return Error(node.Mark(), fmt::format("{} must be a whole number from 1 to {}", what, max));
}

absl::StatusOr<double> YamlReader::Decimal(const YAML::Node& node, std::string_view what,
                                           double max) const {
  double value = 0;
  if (ReadsAs(node, &value) && value > 0 && value <= max) return value;
  return Error(node.Mark(), fmt::format("{} must be a number above 0, at most {}", what, max));
}

}  // namespace octavo
