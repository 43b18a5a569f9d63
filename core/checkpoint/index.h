#pragma once

// model.safetensors.index.json: which shard holds which tensor.

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace octavo {

struct TensorIndex {
  std::map<std::string, std::string, std::less<>> weight_map;  // tensor -> file name
  uint64_t total_size =
      0;  // metadata.total_size: bytes of all tensors; 0 when absent. Informational.
};

// Strict: JSON without duplicate names, a non-empty weight_map of strings to plain file names that
// end in
// ".safetensors" (no separators: nothing may escape the folder). kBadCheckpoint naming file,
// tensor, byte offset.
absl::StatusOr<TensorIndex> ParseIndex(std::string_view text, std::string_view file_name);

// The text Hugging Face writes: sorted keys, two spaces of indentation, a final newline.
std::string BuildIndex(const TensorIndex& index);

// "model-00001-of-00003.safetensors"; `number` counts from 1. "model.safetensors" when count is 1.
std::string ShardName(int number, int count);

inline constexpr std::string_view kIndexFileName = "model.safetensors.index.json";
inline constexpr std::string_view kSingleFileName = "model.safetensors";

}  // namespace octavo
