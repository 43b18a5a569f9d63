#pragma once

// JSON files as trees that keep their keys' order. (Include only from .cc files: the JSON header is
// heavy.)

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace octavo {

// Parses a JSON object. kBadCheckpoint naming file and byte offset for: syntax, invalid UTF-8, a
// root that is no object, duplicate keys, nesting deeper than 64. Numbers out of a double's range
// are refused too.
absl::StatusOr<nlohmann::ordered_json> ParseJsonObject(std::string_view text,
                                                       std::string_view file_name);

// As Hugging Face writes its configs: two spaces of indentation, non-ASCII kept, a final newline.
std::string JsonText(const nlohmann::ordered_json& json);

}  // namespace octavo
