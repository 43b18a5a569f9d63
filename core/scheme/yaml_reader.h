#pragma once

// Reads a YAML tree strictly: every key known, once and of the right kind. Every error is
// kBadRecipe and names the file and the line of the node it is about. Private to core/scheme.

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "yaml-cpp/yaml.h"

namespace octavo {

class YamlReader {
 public:
  explicit YamlReader(std::string_view file) : file_(file) {}

  // One key that a mapping may have, and what to do with its value.
  struct Key {
    std::string_view name;
    bool required;
    std::function<absl::Status(const YAML::Node&)> read;
  };

  // "FILE:LINE", or "FILE" for the null mark.
  std::string Place(const YAML::Mark& mark) const;
  absl::Status Error(const YAML::Mark& mark, std::string_view what,
                     std::string_view cure = {}) const;

  // Reads a mapping in the order of its text. `what` names it in messages.
  absl::Status ReadMap(const YAML::Node& node, std::string_view what,
                       std::span<const Key> keys) const;
  // One line of 1 to bytes_max bytes of UTF-8 without control characters.
  absl::StatusOr<std::string> Text(const YAML::Node& node, std::string_view what,
                                   size_t bytes_max) const;
  // A word of a closed list, as its index in `names`. `kind` names the list ("type").
  absl::StatusOr<size_t> Word(const YAML::Node& node, std::string_view kind,
                              std::span<const std::string_view> names) const;
  // A whole number in 1 .. max.
  absl::StatusOr<int> Number(const YAML::Node& node, std::string_view what, int max) const;
  // A decimal number above 0, at most max.
  absl::StatusOr<double> Decimal(const YAML::Node& node, std::string_view what, double max) const;

 private:
  std::string file_;
};

}  // namespace octavo
