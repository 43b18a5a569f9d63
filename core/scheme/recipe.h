#pragma once

// Recipes: which linear layers become eight-bit numbers, and how. A recipe is data; a preset is a
// recipe with a name. Both are YAML:
//
//   name: fp8-dynamic
//   description: one line
//   dialect: compressed-tensors       # or fp8, quark (legality.h says what each can say)
//   compat: llm-compressor            # or autofp8, quark-2024, quark-0.13; absent: our own way
//   rules:                            # the first rule that matches a layer wins
//     - roles: [down_proj]            # absent: every role but lm_head
//       name: model.layers.0.*        # glob (* and ?) over the module name; absent: every name
//       weight: keep                  # stays as it is
//     - weight: {type: fp8, scale: channel}
//       input: {type: fp8, scale: token}
//       algorithm: absmax             # or mse: how scales are found
//       solver: {type: gptq, damping: 0.01, order: activation}
//   storage: dense                    # or sparse-24-bitmask: how quantized weights lie on disk
//   smooth: {strength: 0.5}
//   kv_cache: {type: fp8, scale: tensor}
//   calibration: {observer: absmax, samples: 512, sample_length: 2048}
//
// weight:   `keep`, or {type: fp8 | int8, scale: tensor | channel | block, block: [rows, columns]}
// input:    absent or `none` (activations stay), or {type: fp8 | int8, scale: token | group, group:
//           n}, found at run time, or {type: fp8, scale: tensor}: static, found by calibration
// kv_cache: absent or `none` (keys and values stay), or {type: fp8, scale: tensor}: static
// solver:   absent: codes are rounded to nearest. gptq, or sparsegpt (2:4), with `damping` (of the
//           Hessian's mean diagonal; 0.01) and `order: natural` or `activation` (the default)
// storage:  `dense` (the default): every code. `sparse-24-bitmask`: two codes of every four, and
//           where they are (compressed-tensors up to 0.14.0.1; vLLM refuses it). Every quantized
//           weight must come out 2:4, by sparsegpt or because the source is; one that does not is
//           an error when it is met
// smooth:   SmoothQuant (Xiao et al., 2022): what q, k and v, or gate and up, read becomes smaller
//           in its largest channels and their weights larger, by powers of two that the norm before
//           them takes back: exact, but for numbers that leave the range of the source's type
// calibration: there exactly where something is static, solved or smoothed. observer, where
// something is
//           static: absmax, mse, or percentile with percentile: 99.99; samples and sample_length
//           (tokens at most) are what a job takes if it is not told otherwise; coverage: what
//           experts of a mixture see: `natural` (tokens routed to them), `quota N` (at least so
//           many, the rest only observed; the default: 512, and with a solver four for every input
//           channel) or `all` tokens; propagate: what a layer sees where layers are solved or
//           smoothed, `quantized` (the default: what the quantized layers below give) or `source`
//
// A linear layer that no rule matches stays as it is. The output head stays too, unless a rule has
// lm_head among its roles: `roles: [lm_head]` quantizes it, where legality.h allows, and gives a
// model whose head is its embedding a head of its own (core/checkpoint/untied_head.h). Embeddings,
// norms, biases and routers always stay, whatever the rules say.

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// Calibration.expert_quota of `coverage: all`, and of recipes that do not name a coverage: what
// ExpertQuotaDefault makes of it.
inline constexpr uint32_t kExpertQuotaAll = std::numeric_limits<uint32_t>::max();
inline constexpr uint32_t kExpertQuotaUnnamed = kExpertQuotaAll - 1;

// Names of the presets, the default first.
std::span<const std::string_view> PresetNames();

// The YAML text of a preset, as `octavo recipe show NAME` prints it. kNotFound names the presets.
absl::StatusOr<std::string_view> PresetYaml(std::string_view name);
absl::StatusOr<v1::Recipe> Preset(std::string_view name);

// Reads a recipe. Unknown keys, wrong values, duplicate keys, more than 64 KiB, more than 256 rules
// and nesting deeper than 8 are kBadRecipe, naming `file_name` and the line. Schemes that no
// dialect can say are refused here too (CheckRecipe in legality.h).
absl::StatusOr<v1::Recipe> ParseRecipe(std::string_view yaml, std::string_view file_name);

// YAML such that ParseRecipe(RecipeYaml(r)) == r for every r that ParseRecipe can return.
std::string RecipeYaml(const v1::Recipe& recipe);

// What a recipe says about one tensor.
struct TensorScheme {
  const v1::Scheme* scheme = nullptr;  // into the recipe; null: the tensor stays as it is
  v1::Algorithm algorithm = v1::ALGORITHM_UNSPECIFIED;
  const v1::Solver* solver = nullptr;  // null: rounded to nearest
};

// True where the rules quantize an output head, if the model has one.
bool QuantizesHead(const v1::Recipe& recipe);

// Applies the rules to every tensor: element i belongs to tensors[i]. The recipe must outlive the
// result. A pattern or role that matches nothing is legal. Schemes illegal for a tensor's family
// and fused groups (q/k/v, gate/up) with different verdicts are kBadRecipe (legality.h).
absl::StatusOr<std::vector<TensorScheme>> ResolveSchemes(const v1::Recipe& recipe,
                                                         std::span<const v1::ModelTensor> tensors);

// `recipe` as it is carried out on a model of these tensors. No reader has a product for experts
// with FP8 weights and 16-bit inputs: before each rule that says so there is one for experts alone,
// with FP8 inputs per token. (Hardware without FP8 runs such a file on its weights alone.) Equal to
// `recipe` where no expert is concerned.
v1::Recipe RecipeFor(const v1::Recipe& recipe, std::span<const v1::ModelTensor> tensors);

// Whether the dialect of `recipe` can say that tensors[i] are quantized by schemes[i], with the
// cache that it has; its rules are not looked at. Errors as ResolveSchemes.
absl::Status CheckSchemes(const v1::Recipe& recipe, std::span<const v1::ModelTensor> tensors,
                          std::span<const TensorScheme> schemes);

// True where the scheme's inputs have one scale that calibration finds.
bool HasStaticInput(const v1::Scheme& scheme);

// True where a rule's inputs, or the cache, have scales that calibration finds.
bool HasStaticScale(const v1::Recipe& recipe);
// True where a rule of the recipe has a solver.
bool HasSolver(const v1::Recipe& recipe);
// Tokens that every expert of `model` sees at least where the recipe names no coverage.
uint32_t ExpertQuotaDefault(const v1::Recipe& recipe, const v1::ModelSpec& model);
// True where layers are finished one after the other: with a solver or smoothing.
bool IsLayerwise(const v1::Recipe& recipe);
// "sparse-24-bitmask" of STORAGE_SPARSE_24_BITMASK: the spelling in recipes.
std::string_view StorageName(v1::WeightStorage storage);
// "gptq" of SOLVER_GPTQ: the spelling in recipes.
std::string SolverName(v1::SolverKind kind);

// True for the weights of linear layers inside the model's layers: what rules may quantize.
bool IsQuantizable(v1::TensorRole role);
// True for all experts of a layer in one tensor.
bool IsStack(v1::TensorRole role);

// What rules call a role: a fused or stacked tensor is what it is made of.
v1::TensorRole RoleInRules(v1::TensorRole role);

// "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight".
std::string_view ModuleName(std::string_view tensor_name);

// Shell glob over the whole of `text`: * any run, ? any one byte. Time at most
// |pattern| x |text|.
bool GlobMatches(std::string_view pattern, std::string_view text);

// "down_proj" of DOWN_PROJ: the spelling in recipes and messages.
std::string RoleName(v1::TensorRole role);

// "percentile" of OBSERVER_PERCENTILE: the spelling in recipes.
std::string ObserverName(v1::Observer observer);

// "FP8 channel / FP8 token dynamic", for people.
std::string SchemeText(const v1::Scheme& scheme);

}  // namespace octavo
