#include "core/scheme/compat.h"

#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

constexpr std::array<std::string_view, 1> kOfLlmCompressor = {kCompressedTensors};
constexpr std::array<std::string_view, 1> kOfAutoFp8 = {kFp8Dialect};
constexpr std::array<std::string_view, 2> kOfQuark = {kFp8Dialect, kQuarkDialect};

constexpr CompatMode kQuark2024 = {.compat = v1::COMPAT_QUARK_2024,
                                   .name = "quark-2024",
                                   .dialects = kOfQuark,
                                   .tensor_scales_only = true,
                                   .formula = ScaleFormula::kBf16Quotient,
                                   .quotient = Quotient::kRounded,
                                   .tied = false,
                                   .projected_cache = true,
                                   .joint_cache = true,
                                   .expert_quota = 0,
                                   .quark_version = "0.5"};

// The same with scales in BF16. It stores DBRX's experts one by one, under names of its own.
constexpr CompatMode Quark013() {
  CompatMode mode = kQuark2024;
  mode.compat = v1::COMPAT_QUARK_0_13;
  mode.name = "quark-0.13";
  mode.stacks = false;
  mode.zero = ZeroScale::kF32Epsilon;
  mode.bf16_scales = true;
  mode.quark_version = "0.13";
  return mode;
}

constexpr std::array kModes = {
    CompatMode{},
    CompatMode{.compat = v1::COMPAT_LLM_COMPRESSOR,
               .name = "llm-compressor",
               .dialects = kOfLlmCompressor,
               .stacks = false,
               .quotient = Quotient::kRounded,
               .zero = ZeroScale::kTypeEpsilon,
               .int8_full_range = true,
               .tied = false,
               .expert_quota = kExpertQuotaAll},
    CompatMode{.compat = v1::COMPAT_LLM_COMPRESSOR_0_1,
               .name = "llm-compressor-0.1",
               .dialects = kOfLlmCompressor,
               .stacks = false,
               .quotient = Quotient::kRounded,
               .zero = ZeroScale::kF32Epsilon,
               .int8_full_range = true,
               .scale_min = 0x1p-23f,
               .solves = true,
               .tied = false,
               .expert_quota = 0},
    CompatMode{.compat = v1::COMPAT_AUTOFP8,
               .name = "autofp8",
               .dialects = kOfAutoFp8,
               .tensor_scales_only = true,
               .stacks = false,
               .formula = ScaleFormula::kBf16Reciprocal,
               .quotient = Quotient::kByReciprocal,
               .zero = ZeroScale::kFormula,
               .tied = false,
               .projected_cache = true,
               .expert_quota = 0,
               .chats_as_text = true,
               .unvisited_amax_bits = BitsOf(16.0f)},
    kQuark2024,
    Quark013(),
};

constexpr auto kModeNames = [] {
  std::array<std::string_view, kModes.size() - 1> names;
  for (size_t i = 0; i < names.size(); ++i) names[i] = kModes[i + 1].name;
  return names;
}();

bool IsItsGptq(const v1::Rule& rule) {
  return rule.scheme().weight().type() == v1::NUMERIC_INT8 &&
         rule.scheme().weight().granularity() == v1::PER_CHANNEL &&
         rule.solver().kind() == v1::SOLVER_GPTQ && !rule.solver().activation_order();
}

float EpsilonOf(SourceType type) {
  if (type == SourceType::kF32) return 0x1p-23f;
  return type == SourceType::kF16 ? 0x1p-10f : 0x1p-7f;
}

}  // namespace

const CompatMode& CompatModeOf(v1::Compat compat) {
  for (const CompatMode& mode : kModes) {
    if (mode.compat == compat) return mode;
  }
  OCTAVO_CHECK(false);
  return kModes.front();
}

const CompatMode* FindCompatMode(std::string_view name) {
  for (const CompatMode& mode : kModes) {
    if (!name.empty() && mode.name == name) return &mode;
  }
  return nullptr;
}

std::span<const std::string_view> CompatNames() { return kModeNames; }

float CompatScale(const CompatMode& mode, uint32_t amax_bits, float code_max, SourceType stored) {
  if (amax_bits == 0 && mode.zero != ZeroScale::kFormula) {
    if (mode.zero == ZeroScale::kOne) return 1.0f;
    return mode.zero == ZeroScale::kTypeEpsilon ? EpsilonOf(stored) : 0x1p-23f;
  }
  return std::max(ScaleByFormula(mode.formula, amax_bits, code_max, stored), mode.scale_min);
}

void ApplyCompat(v1::Recipe* recipe) {
  if (!CompatModeOf(recipe->compat()).solves) return;
  for (v1::Rule& rule : *recipe->mutable_rules()) {
    if (rule.has_solver()) rule.mutable_solver()->set_activation_order(false);
  }
  if (recipe->has_calibration()) recipe->mutable_calibration()->set_propagates_source(true);
}

absl::Status CheckCompat(const v1::Recipe& recipe) {
  if (!v1::Compat_IsValid(recipe.compat())) {
    return MakeError(
        Reason::kBadRecipe,
        fmt::format("compatibility mode {} is not known", static_cast<int>(recipe.compat())), {},
        fmt::format("Modes: {}", fmt::join(kModeNames, ", ")));
  }
  const CompatMode& mode = CompatModeOf(recipe.compat());
  if (mode.compat == v1::COMPAT_NONE) return absl::OkStatus();
  const auto bad = [&](std::string_view what, std::string_view cure) {
    return MakeError(Reason::kBadRecipe, fmt::format("compat {}: {}", mode.name, what), {}, cure);
  };
  bool writes = false;
  for (const std::string_view dialect : mode.dialects) writes |= dialect == recipe.dialect();
  if (!writes) {
    return bad(fmt::format("that tool does not write the dialect {}", recipe.dialect()),
               fmt::format("Use the dialect {}", fmt::join(mode.dialects, " or ")));
  }
  for (const v1::Rule& rule : recipe.rules()) {
    const v1::NumericFormat& weight = rule.scheme().weight();
    if (weight.type() == v1::NUMERIC_KEEP) continue;
    if (rule.algorithm() != v1::ABSMAX) {
      return bad("the MSE search has none: the tool's own result for a row depends on other rows",
                 "Use algorithm: absmax, or leave out compat");
    }
    if (rule.has_solver() && !mode.solves) {
      return bad("compat and a solver do not go together in this mode",
                 "Leave out compat, or use llm-compressor-0.1 with GPTQ to INT8");
    }
    if (mode.solves && !IsItsGptq(rule)) {
      return bad("known for GPTQ to INT8 with one scale per row and columns in natural order only",
                 "Use weight: {type: int8, scale: channel} and solver: {type: gptq, order: "
                 "natural}, or leave out compat");
    }
    if (mode.tensor_scales_only && weight.granularity() != v1::PER_TENSOR) {
      return bad("that tool's weights have one scale per matrix", "Use scale: tensor");
    }
  }
  if (mode.solves && recipe.has_calibration() && !recipe.calibration().propagates_source()) {
    return bad("that tool's layers see what the source's layers below give",
               "Use propagate: source");
  }
  if (recipe.has_calibration() && recipe.calibration().observer() != v1::OBSERVER_ABSMAX) {
    return bad("known for the largest magnitude only", "Use observer: absmax, or leave out compat");
  }
  return absl::OkStatus();
}

}  // namespace octavo
