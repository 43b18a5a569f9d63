#pragma once

// The one table of what may be quantized how: (scheme, dialect, where the weight lies) -> allowed,
// or the reason why no reader takes it.
//
//   compressed-tensors  FP8 per channel or tensor with inputs per token, static or none; FP8 blocks
//                       of 128 x 128; INT8 per channel with inputs per token. Several schemes in
//                       one folder.
//   fp8                 FP8 per tensor with inputs per token or static; FP8 blocks. One scheme.
//                       Also for experts stacked in one tensor, a scale for each.
//   quark               FP8 per tensor with static inputs. One scheme. Stacks as in fp8.
//
// The output head (a rule with roles: [lm_head]) is quantized in compressed-tensors only: FP8 per
// channel or tensor with inputs per token or none, INT8 per channel with inputs per token, rounded
// to nearest. vLLM's other dialects pass its head by, and a head's block scales do not load there.
//
// All three can say an FP8 cache with one scale for the keys of a layer and one for its values.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// How a folder says that it is quantized: Recipe.dialect. The default first.
inline constexpr std::string_view kCompressedTensors = "compressed-tensors";
inline constexpr std::string_view kFp8Dialect = "fp8";
inline constexpr std::string_view kQuarkDialect = "quark";
std::span<const std::string_view> DialectNames();

// Where a linear layer's weight lies.
enum class Home {
  kDense,
  kExpert,  // one of many experts, in a tensor of its own
  kStack,   // all experts of a layer in one tensor
  kHead,    // the output head
};

// kBadRecipe with the reason if the dialect or its readers cannot express `scheme` with
// `algorithm`. `where` names the rule or tensor in the message.
absl::Status CheckLegal(const v1::Scheme& scheme, v1::Algorithm algorithm, std::string_view dialect,
                        Home home, std::string_view where);

// kBadRecipe where `dialect` has one scheme for all layers, and `scheme` is not `first`.
absl::Status CheckTogether(const v1::Scheme& first, const v1::Scheme& scheme,
                           std::string_view dialect, std::string_view where);

// What messages call the parts of a recipe: "r.yaml:3". Where empty: "rule 1", "kv_cache",
// "calibration".
struct RecipePlaces {
  std::vector<std::string> rules;
  std::string kv_cache;
  std::string calibration;
};

// Everything about a recipe that needs no model: its rules are legal for dense layers, its dialect
// can say them together, its cache can be said, and there is a calibration within bounds exactly
// where something is static or solved; its compatibility mode can be had with all that. kBadRecipe.
absl::Status CheckRecipe(const v1::Recipe& recipe, const RecipePlaces& places = {});

// Bounds of a calibration and of a solver.
inline constexpr double kDampingMax = 1;
inline constexpr int kSamplesMax = 1 << 16;
inline constexpr int kSampleLengthMax = 1 << 20;

// One line for people if readers are known to refuse a [rows, columns] weight of this scheme; empty
// otherwise. (Block formats: both must be multiples of the block.)
std::string DimensionWarning(const v1::Scheme& scheme, int64_t rows, int64_t columns);

}  // namespace octavo
