#include <array>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

struct PresetText {
  std::string_view name;
  std::string_view yaml;
};

constexpr std::array kPresets = {
    PresetText{"fp8-dynamic", R"(name: fp8-dynamic
description: FP8 weights, one scale per output row; FP8 activations, scaled per token at run time
dialect: compressed-tensors
rules:
  - weight: {type: fp8, scale: channel}
    input: {type: fp8, scale: token}
    algorithm: absmax
)"},
    PresetText{"fp8-weight-only", R"(name: fp8-weight-only
description: FP8 weights, one scale per output row; activations stay as they are (W8A16)
dialect: compressed-tensors
rules:
  - weight: {type: fp8, scale: channel}
    input: none
    algorithm: absmax
)"},
    PresetText{"fp8-block", R"(name: fp8-block
description: FP8 weights in blocks of 128 x 128; FP8 activations, scaled per 128 values at run time
dialect: compressed-tensors
rules:
  - weight: {type: fp8, scale: block, block: [128, 128]}
    input: {type: fp8, scale: group, group: 128}
    algorithm: absmax
)"},
    PresetText{"int8-dynamic", R"(name: int8-dynamic
description: INT8 weights, one scale per output row; INT8 activations, scaled per token at run time
dialect: compressed-tensors
rules:
  - weight: {type: int8, scale: channel}
    input: {type: int8, scale: token}
    algorithm: absmax
)"},
    PresetText{"fp8-dynamic-mse", R"(name: fp8-dynamic-mse
description: FP8 weights, the scale of each row by least squared error; FP8 activations per token
dialect: compressed-tensors
rules:
  - weight: {type: fp8, scale: channel}
    input: {type: fp8, scale: token}
    algorithm: mse
)"},
    PresetText{"int8-smoothquant", R"(name: int8-smoothquant
description: INT8 weights and activations after SmoothQuant by powers of two, folded into the norms
dialect: compressed-tensors
rules:
  - weight: {type: int8, scale: channel}
    input: {type: int8, scale: token}
    algorithm: absmax
smooth: {strength: 0.65}
calibration: {samples: 512, sample_length: 512}
)"},
    PresetText{"int8-smoothquant-gptq", R"(name: int8-smoothquant-gptq
description: SmoothQuant by powers of two, INT8 weights solved by GPTQ; INT8 activations per token
dialect: compressed-tensors
rules:
  - weight: {type: int8, scale: channel}
    input: {type: int8, scale: token}
    algorithm: absmax
    solver: {type: gptq}
smooth: {strength: 0.65}
calibration: {samples: 512, sample_length: 2048}
)"},
    PresetText{"int8-w8a8-gptq", R"(name: int8-w8a8-gptq
description: INT8 weights solved by GPTQ, one scale per output row; INT8 activations per token
dialect: compressed-tensors
rules:
  - weight: {type: int8, scale: channel}
    input: {type: int8, scale: token}
    algorithm: absmax
    solver: {type: gptq}
calibration: {samples: 512, sample_length: 2048}
)"},
    PresetText{"fp8-gptq", R"(name: fp8-gptq
description: FP8 weights solved by GPTQ, one scale per output row; FP8 activations per token
dialect: compressed-tensors
rules:
  - weight: {type: fp8, scale: channel}
    input: {type: fp8, scale: token}
    algorithm: absmax
    solver: {type: gptq}
calibration: {samples: 512, sample_length: 2048}
)"},
    PresetText{"sparsegpt-24-fp8", R"(name: sparsegpt-24-fp8
description: Two of every four weights zero by SparseGPT, the others FP8; FP8 activations per token
dialect: compressed-tensors
rules:
  - weight: {type: fp8, scale: channel}
    input: {type: fp8, scale: token}
    algorithm: absmax
    solver: {type: sparsegpt}
calibration: {samples: 512, sample_length: 2048}
)"},
    PresetText{"fp8-static", R"(name: fp8-static
description: FP8 weights, one scale per matrix; FP8 activations, one scale per layer by calibration
dialect: fp8
rules:
  - weight: {type: fp8, scale: tensor}
    input: {type: fp8, scale: tensor}
    algorithm: absmax
calibration: {observer: absmax, samples: 512, sample_length: 4096}
)"},
    PresetText{"fp8-static-kv", R"(name: fp8-static-kv
description: FP8 weights, activations, keys and values; the scales of the last three by calibration
dialect: fp8
rules:
  - weight: {type: fp8, scale: tensor}
    input: {type: fp8, scale: tensor}
    algorithm: absmax
kv_cache: {type: fp8, scale: tensor}
calibration: {observer: absmax, samples: 128, sample_length: 512}
)"},
};

constexpr auto kNames = [] {
  std::array<std::string_view, kPresets.size()> names;
  for (size_t i = 0; i < names.size(); ++i) names[i] = kPresets[i].name;
  return names;
}();

}  // namespace

std::span<const std::string_view> PresetNames() { return kNames; }

absl::StatusOr<std::string_view> PresetYaml(std::string_view name) {
  for (const PresetText& preset : kPresets) {
    if (preset.name == name) return preset.yaml;
  }
  return MakeError(Reason::kNotFound, fmt::format("no preset is called '{}'", name), {},
                   fmt::format("Presets: {}; or give a YAML file", fmt::join(kNames, ", ")));
}

absl::StatusOr<v1::Recipe> Preset(std::string_view name) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string_view yaml, PresetYaml(name));
  return ParseRecipe(yaml, name);
}

}  // namespace octavo
