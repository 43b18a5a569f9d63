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
// root that is no object, duplicate keys, nesting deeper than 64, more than 20,000 keys in one
// object. Numbers out of a double's range are refused too.
absl::StatusOr<nlohmann::ordered_json> ParseJsonObject(std::string_view text,
                                                       std::string_view file_name);

// What the parser cannot be trusted with: it skips a byte-order mark and takes a NUL for the end.
// kBadCheckpoint also when the text does not begin with '{' (after white space). `offset`: where
// `text` begins in the file.
absl::Status CheckJsonText(std::string_view text, std::string_view file_name, uint64_t offset);

// The useful part of an exception text of the JSON library, printable and short.
std::string JsonErrorText(std::string_view what);

// As Hugging Face writes its configs: two spaces of indentation, non-ASCII kept, a final newline.
std::string JsonText(const nlohmann::ordered_json& json);

}  // namespace octavo
