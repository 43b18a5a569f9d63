#pragma once

// The compressed-tensors dialect: `quantization_config` inside config.json, and scales beside their
// weights. Loaded unchanged by transformers with compressed-tensors, and by vLLM. Keys that older
// readers forbid (scale_dtype, zp_dtype) are never written, and sparsity_config only where the
// recipe asks for weights stored as sparse-24-bitmask (bitmask_storage.h).
// Names and shapes: dialect.h.

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/scheme/recipe.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/plan.pb.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// The value of "quantization_config" (dialect.h). One group targets "Linear"; several name their
// modules.
nlohmann::ordered_json CompressedTensorsJson(const v1::Recipe& recipe, const v1::ModelSpec& model,
                                             std::span<const v1::ModelTensor> tensors,
                                             std::span<const TensorScheme> schemes);

// What serving and `doctor` need to know of one tensor.
struct TensorQuantization {
  bool quantized = false;  // codes with a scale
  bool is_scale = false;   // the scale of another tensor
  v1::Scheme scheme;       // where quantized
  v1::TensorSpec scale;    // where quantized
  // Where the scheme's input is static: the scalar that its values are divided by.
  std::optional<v1::TensorSpec> input_scale;
};

// What serving and `doctor` need to know of a checkpoint.
struct Quantization {
  std::vector<TensorQuantization> tensors;    // by index of the tensors asked about
  std::vector<v1::CacheScales> cache_scales;  // by layer; empty: the cache is not quantized
};

// Finds, for every tensor, whether it is quantized, how, and where exactly its scales are;
// `tensors` hold the scale tensors too, in any role. `config` is the whole config.json. Without
// "quantization_config" nothing is quantized (8-bit weights are then an error). Refused as
// kBadCheckpoint, naming the tensor: a missing, surplus or misshapen scale, a weight whose dtype is
// not what its group says, an orphan scale; as kUnsupported: other quant methods, asymmetric
// schemes, static inputs other than FP8 with one scale, a cache other than FP8 with one scale per
// layer, packed storage, sparse storage other than sparse-24-bitmask. Scale values are checked when
// they are read.
absl::StatusOr<Quantization> ReadQuantization(const nlohmann::ordered_json& config,
                                              std::span<const v1::ModelTensor> tensors);

}  // namespace octavo
