#pragma once

// The quark dialect: `quant_method: quark` inside config.json, as AMD Quark exports it and vLLM
// reads it. One scheme for all layers: FP8 with one scale per matrix and static inputs. The cache
// is said as the quantized output of the k and v projections. Names and shapes: dialect.h.

#include <span>

#include "core/scheme/recipe.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// The value of "quantization_config" (dialect.h). Kept modules are named in full: Quark takes
// patterns as globs, vLLM as regular expressions.
nlohmann::ordered_json QuarkJson(const v1::Recipe& recipe, const v1::ModelSpec& model,
                                 std::span<const v1::ModelTensor> tensors,
                                 std::span<const TensorScheme> schemes);

}  // namespace octavo
