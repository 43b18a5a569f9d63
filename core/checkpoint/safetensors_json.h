#pragma once

// The JSON part of a safetensors header, parsed without building a tree: headers of 100 MB exist.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace octavo {

// One tensor as the header says it, nothing checked but the JSON types.
struct HeaderEntry {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  uint64_t begin = 0;  // relative to the data section
  uint64_t end = 0;
  uint64_t json_offset = 0;  // byte offset of its name in the file, for messages
};

// `json`: the n bytes after the length field. Unknown keys of a tensor are ignored, as the format
// wants; a repeated key inside a tensor is refused. Duplicate tensor names come back as they are.
// Axes per tensor are bounded (64).
absl::StatusOr<std::vector<HeaderEntry>> ParseHeaderJson(std::string_view json,
                                                         std::string_view file_name);

}  // namespace octavo
