#pragma once

// The dialects in which a folder says that it is quantized, and how (Recipe.dialect; what each can
// say is the table of core/scheme/legality.h). A quantized layer X holds, besides X.weight with its
// codes, shape as before:
//
//   dialect              weight scale per tensor         per channel, block       input, static
//   compressed-tensors   X.weight_scale [1]              X.weight_scale [N, 1],   X.input_scale [1]
//                                                        [ceil(N/128), ceil(K/128)]
//   fp8                  X.weight_scale [] F32           X.weight_scale_inv,      X.input_scale []
//                                                        blocks only, F32
//   quark                X.weight_scale [] F32           (none)                   X.input_scale []
//
// and for an FP8 cache, beside the attention A with projections A.K and A.V:
//
//   compressed-tensors   A.k_scale, A.v_scale [1]
//   fp8                  A.k_scale, A.v_scale [] F32
//   quark                A.K.output_scale, A.V.output_scale [] F32
//
// compressed-tensors stores scales in BF16 for BF16 weights and in F32 otherwise (F16 cannot hold
// amax/448 of small weights), the others always in F32. Every scale multiplies: real = code *
// scale, also where its name says _inv.
//
// Experts stacked in one tensor P.w1 (DBRX; not in compressed-tensors) become P.w1_weight,
// P.w1_weight_scale [experts] and P.w1_input_scale [experts].

#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/scheme/recipe.h"
#include "core/tensor/dtype.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/plan.pb.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// A tensor of scales.
struct ScaleShape {
  std::string name;
  DType dtype = DType::kInvalid;
  std::vector<int64_t> shape;
};

// Storage type of the codes of `format`.
DType CodeDType(v1::NumericType type);

// Name of the tensor that holds the codes of a weight: the weight's own, except for a stack.
std::string CodesNameOf(const v1::ModelTensor& weight);

// The grid of scales over a matrix: {1}, {rows, 1} or {ceil(rows / block), ceil(columns / block)}.
std::vector<int64_t> ScaleGridOf(const v1::TensorSpec& weight, const v1::NumericFormat& format);

// The scales of a weight. REQUIRES a dialect and a format that CheckLegal takes for it.
ScaleShape WeightScaleOf(std::string_view dialect, const v1::ModelSpec& model,
                         const v1::ModelTensor& weight, const v1::NumericFormat& format);

// The scale of a weight's static input.
ScaleShape InputScaleOf(std::string_view dialect, const v1::ModelSpec& model,
                        const v1::ModelTensor& weight);

// The scale of a layer's keys or values in an FP8 cache.
struct CacheScale {
  ScaleShape scale;
  v1::ObservedPoint point = v1::OBSERVED_UNSPECIFIED;  // OBSERVED_KEY or OBSERVED_VALUE
};
// Those that go beside `weight`: one beside a k or v projection, both beside a fused one, none
// beside any other tensor.
std::vector<CacheScale> CacheScalesOf(std::string_view dialect, const v1::ModelTensor& weight);

// What a linear layer's weight multiplies.
v1::ObservedPoint InputPointOf(v1::TensorRole role);

// The value of "quantization_config" for what `recipe` makes of a model: schemes[i] belongs to
// tensors[i] (ResolveSchemes).
nlohmann::ordered_json QuantizationConfigJson(const v1::Recipe& recipe, const v1::ModelSpec& model,
                                              std::span<const v1::ModelTensor> tensors,
                                              std::span<const TensorScheme> schemes);

// A source config.json with "quantization_config" set: edited as a tree, all other keys and their
// order kept. Ends with a newline.
std::string QuantizedConfigText(nlohmann::ordered_json config,
                                nlohmann::ordered_json quantization_config);

// Full names of all linear modules that stay as they are, "lm_head" included even where there is
// none, unless it is quantized: readers match names, and each has another idea of patterns.
std::set<std::string> KeptModules(std::span<const v1::ModelTensor> tensors,
                                  std::span<const TensorScheme> schemes);

}  // namespace octavo
