#pragma once

// GGUF -> Hugging Face BF16 checkpoint: model.safetensors (q and k permuted back), config.json,
// generation_config.json, tokenizer.json, tokenizer_config.json with the chat template,
// special_tokens_map.json. The weights equal those that transformers makes of the same file, bit
// for bit.

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/store/store.h"

namespace octavo {

struct ImportSummary {
  std::string architecture;
  uint64_t tensors = 0;
  uint64_t bytes_read = 0;
  uint64_t bytes_written = 0;
  std::string digest;  // XXH3-128 of model.safetensors, hex
};

// Staged beside `out_dir` and renamed; `out_dir` must not exist (kOutputExists). kUnsupported names
// the tensor and its type, the architecture or the tokenizer model that cannot be imported;
// kBadCheckpoint what is malformed; kNonFinite a tensor with a NaN or infinity. Memory: one tensor
// at a time.
absl::StatusOr<ImportSummary> ImportGguf(Store& store, const std::string& file,
                                         const std::string& out_dir);
absl::StatusOr<ImportSummary> ImportGguf(const std::string& file, const std::string& out_dir);

}  // namespace octavo
