#pragma once

// The fp8 dialect: `quant_method: fp8` inside config.json, as AutoFP8 writes it and vLLM and others
// read it. One scheme for all layers: one scale per matrix with inputs found at run time
// (`activation_scheme: dynamic`) or once by calibration (`static`), or blocks
// (`weight_block_size`). Quark writes the same with an `export` section. Names and shapes:
// dialect.h.

#include <span>

#include "absl/status/statusor.h"
#include "core/scheme/recipe.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/model.pb.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// The value of "quantization_config" (dialect.h). Kept modules are named in full: readers know no
// patterns here. With a cache, and in Quark's compatibility modes, there is Quark's section
// `export`, which names what the cache is of; AutoFP8's has none.
nlohmann::ordered_json Fp8Json(const v1::Recipe& recipe, const v1::ModelSpec& model,
                               std::span<const v1::ModelTensor> tensors,
                               std::span<const TensorScheme> schemes);

}  // namespace octavo
