#pragma once

// JSON from a file that is not trusted: bounded in bytes, depth and number of values, and without
// duplicate keys (of which a parser would silently keep one).

#include <cstddef>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace octavo {

// A tokenizer.json of 260,000 tokens and 580,000 merges has 2.3 million.
inline constexpr size_t kJsonValuesMax = 4'000'000;

// `file` names it in errors (kBadCheckpoint, with the byte offset for a syntax error).
absl::StatusOr<nlohmann::json> ParseBoundedJson(std::string_view bytes, std::string_view file,
                                                size_t bytes_max);

// One line of a file of JSON lines, with its keys in their order. Says what is wrong with it (and
// leaves `value` as it was); nothing if all is well.
std::optional<std::string> ParseJsonLine(std::string_view line, nlohmann::ordered_json* value);

// A member of an object; null if `object` is none or has no such member.
const nlohmann::json& MemberOrNull(const nlohmann::json& object, std::string_view name);

// kUnsupported if `object` (`what` in the message) has a member whose name is not in `known`.
absl::Status CheckMembers(const nlohmann::json& object, std::string_view what,
                          std::string_view file, std::initializer_list<std::string_view> known);

}  // namespace octavo
