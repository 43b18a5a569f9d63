#pragma once

// config.json and generation_config.json of a Hugging Face checkpoint -> ModelSpec. Reads the
// spellings of transformers 4 (rope_theta, rope_scaling, torch_dtype) and 5 (rope_parameters,
// dtype).

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "core/tensor/dtype.h"
#include "octavo/v1/model.pb.h"

namespace octavo {

// `generation_config_text` may be empty (no such file): then the ids of config.json count. Errors:
// kBadCheckpoint for malformed or contradictory facts, kUnsupported for a family, activation or
// rope scaling that is well formed but not handled, with what is. A sliding window bounds
// max_position: up to its length it hides nothing.
absl::StatusOr<v1::ModelSpec> ParseConfig(std::string_view config_text,
                                          std::string_view generation_config_text);

// True when config.json has a quantization_config (or the older compression_config). kBadCheckpoint
// if it is no JSON.
absl::StatusOr<bool> HasQuantization(std::string_view config_text);

// "bfloat16", "float16", "float32"; empty for what is no dtype of weights.
std::string_view TorchName(DType dtype);

// config.json of `spec` in the spelling that transformers 4 and 5 both read; `ParseConfig` gives
// `spec` back.
std::string ConfigText(const v1::ModelSpec& spec);
// generation_config.json of `spec`.
std::string GenerationConfigText(const v1::ModelSpec& spec);

}  // namespace octavo
