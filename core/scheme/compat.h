#pragma once

// Compatibility modes (Recipe.compat, `--compat TOOL`): the output has the bytes that another tool
// makes of the same checkpoint, and with static scales of the same tokens, where its way of
// computing can be told. One table says everything in which a mode differs from our own way; who
// depends on it asks the table.
//
//                   our own        llm-compressor  autofp8          quark-2024    quark-0.13
//   dialects        all            compressed-t.   fp8              fp8, quark    fp8, quark
//   weights         all            absmax          absmax, one FP8 scale per matrix, BF16 sources
//   scale s         F32            F32             1 / r, r = 448 / amax in BF16, twice rounded
//                                                  (autofp8); amax / 448 in BF16 (quark)
//   codes of        x / s          x / s in the    x * r in BF16    x / s in BF16
//                                  source's type
//   scales stored   by dialect     by dialect      F32              F32           BF16
//   all zero        1              epsilon         448e12 / 1       1             2^-23
//   q/k/v, gate/up  one scale      each its own    each its own     each its own  each its own
//   experts' inputs one scale      each its own    each its own     each its own  each its own
//   experts see     by coverage    all tokens      tokens routed to them
//   keys, values    after          after rotation  as projected     as projected, one scale for
//                   rotation                                        both
//   chats           template       template        the template's text tokenized again, padded
//                                                  with EOS (autofp8)
//
// `llm-compressor-0.1` is a mode of solving alone: GPTQ to INT8 with one scale per row, as the tool
// did that made Llama-3.1-8B's published INT8 checkpoint. As llm-compressor, but no scale is below
// 2^-23; columns are solved as they lie; layers see what the source's layers below give; no row is
// given back to rounding; and a solved code goes through the source's type once more, since the
// tool keeps solved weights there and makes their codes again when it saves them.
//
// The scales of static inputs and of the cache follow the same formula as those of weights. What a
// tool's own pass through the model does otherwise is not imitated: activations are those of the
// BF16 model in every mode.

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "core/tensor/bare/scale.h"
#include "octavo/v1/recipe.pb.h"

namespace octavo {

// What an all-zero group gets.
enum class ZeroScale : uint8_t {
  kOne,
  kTypeEpsilon,  // the epsilon of the type in which scales are stored
  kF32Epsilon,   // 2^-23
  kFormula,      // what the formula gives for its smallest maximum
};

struct CompatMode {
  v1::Compat compat = v1::COMPAT_NONE;
  std::string_view name = {};                       // as recipes and --compat spell it
  std::span<const std::string_view> dialects = {};  // that the tool writes; empty: all
  // FP8 weights of BF16 sources with one scale per matrix, no experts stacked in one tensor unless
  // `stacks`.
  bool tensor_scales_only = false;
  bool stacks = true;

  ScaleFormula formula = ScaleFormula::kF32;
  Quotient quotient = Quotient::kExact;
  ZeroScale zero = ZeroScale::kOne;
  bool int8_full_range = false;  // amax / 127.5, codes down to -128
  bool bf16_scales = false;      // stored as BF16, whatever the dialect says
  float scale_min = 0;           // no scale is smaller
  // For GPTQ to INT8 alone, which no other mode goes with. Columns in natural order, what layers
  // see propagated from the source, codes made again from solved weights in the source's type.
  bool solves = false;

  bool tied = true;              // q/k/v and gate/up share a scale; so do the inputs of all experts
  bool projected_cache = false;  // keys and values are observed before clamp, norm and rotation
  bool joint_cache = false;      // one scale covers a layer's keys and values (with fused q/k/v: q)

  // Takes the place of Calibration.expert_quota: what experts see.
  std::optional<uint32_t> expert_quota = {};
  bool chats_as_text = false;  // CalibrationOptions::as_text_padded
  // One sample goes through at a time, and an expert that none of its tokens visits counts as
  // having seen this magnitude (F32 bits). 0: neither.
  uint32_t unvisited_amax_bits = 0;

  // What Quark's section `export` and its version say; empty: the mode is not Quark's.
  std::string_view quark_version = {};
};

// The mode of a recipe. REQUIRES: Compat_IsValid(compat).
const CompatMode& CompatModeOf(v1::Compat compat);
// By name; null where there is none.
const CompatMode* FindCompatMode(std::string_view name);
// "llm-compressor", "autofp8", ...
std::span<const std::string_view> CompatNames();

// The scale of a group, input or cache with this maximum, exactly representable in `stored`.
// `code_max`: 448 or 127. REQUIRES: amax_bits finite.
float CompatScale(const CompatMode& mode, uint32_t amax_bits, float code_max, SourceType stored);

// Sets what the mode of `recipe` implies: a solver's order, and what layers see.
void ApplyCompat(v1::Recipe* recipe);

// kBadRecipe where the mode of `recipe` cannot be had with the rest of it: another dialect than the
// tool writes, MSE or percentiles, other scales than it is known for. Part of CheckRecipe.
absl::Status CheckCompat(const v1::Recipe& recipe);

}  // namespace octavo
