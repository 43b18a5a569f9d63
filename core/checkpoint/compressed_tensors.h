#pragma once

// The compressed-tensors dialect: `quantization_config` inside config.json, and scales beside their
// weights. Loaded unchanged by transformers with compressed-tensors, and by vLLM. Keys that older
// readers forbid (scale_dtype, zp_dtype) and sparsity_config are never written.
//
// A quantized layer X has X.weight (F8_E4M3 or I8, shape [N, K] as before) and X.weight_scale:
// [1] per tensor, [N, 1] per channel, [ceil(N/128), ceil(K/128)] per block; real = code * scale.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "core/scheme/recipe.h"
#include "core/tensor/dtype.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// Name, dtype and shape of the scale tensor that `format` needs for a weight. Scales are stored in
// BF16 for BF16 weights and in F32 otherwise (F16 cannot hold amax/448 of small weights).
struct ScaleShape {
  std::string name;
  DType dtype = DType::kInvalid;
  std::vector<int64_t> shape;
};
ScaleShape ScaleShapeOf(const v1::TensorSpec& weight, const v1::NumericFormat& format);

// Storage type of the codes of `format`.
DType CodeDType(v1::NumericType type);

// The value of "quantization_config". schemes[i] belongs to tensors[i] (ResolveSchemes). One group
// targets "Linear"; several name their modules. `ignore` lists every other linear module by its
// full name, "lm_head" always included.
nlohmann::ordered_json QuantizationConfigJson(const v1::ModelSpec& model,
                                              std::span<const v1::ModelTensor> tensors,
                                              std::span<const TensorScheme> schemes);

// A source config.json with "quantization_config" set: edited as a tree, all other keys and their
// order kept. Ends with a newline.
std::string QuantizedConfigText(nlohmann::ordered_json config,
                                nlohmann::ordered_json quantization_config);

// What serving and `doctor` need to know of one tensor.
struct TensorQuantization {
  bool quantized = false;  // codes with a scale
  bool is_scale = false;   // the scale of another tensor
  v1::Scheme scheme;       // where quantized
  v1::TensorSpec scale;    // where quantized
};

// Finds, for every tensor, whether it is quantized, how, and where exactly its scale is: element i
// belongs to tensors[i], which hold the scale tensors too, in any role. `config` is the whole
// config.json. Without "quantization_config" nothing is quantized (8-bit weights are then an
// error). Refused as kBadCheckpoint, naming the tensor: a missing, surplus or misshapen scale, a
// weight whose dtype is not what its group says, an orphan scale; as kUnsupported: other quant
// methods, static or asymmetric schemes, packed and sparse storage. Scale values are checked when
// they are read.
absl::StatusOr<std::vector<TensorQuantization>> ReadQuantization(
    const nlohmann::ordered_json& config, std::span<const v1::ModelTensor> tensors);

}  // namespace octavo
