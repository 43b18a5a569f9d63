#include "core/scheme/legality.h"

#include <algorithm>
#include <array>
#include <optional>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/compat.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

constexpr std::array kDialects = {kCompressedTensors, kFp8Dialect, kQuarkDialect};

// How inputs are stored, and when their scale is found.
enum class Input { kNone, kToken, kGroup, kStatic };

// A scheme that a dialect can say. Weight and input are of one type.
struct LegalRow {
  std::string_view dialect;
  v1::NumericType type;
  v1::Granularity weight_scale;
  Input input;
  bool experts;        // also for experts of a mixture
  bool stacks;         // also for experts stacked in one tensor
  bool heads = false;  // also for the output head
};

constexpr auto kFp8 = v1::NUMERIC_FP8_E4M3;
constexpr std::array kLegal = {
    LegalRow{kCompressedTensors, kFp8, v1::PER_CHANNEL, Input::kToken, true, false, true},
    LegalRow{kCompressedTensors, kFp8, v1::PER_CHANNEL, Input::kNone, false, false, true},
    LegalRow{kCompressedTensors, kFp8, v1::PER_CHANNEL, Input::kStatic, false, false},
    LegalRow{kCompressedTensors, kFp8, v1::PER_TENSOR, Input::kToken, false, false, true},
    LegalRow{kCompressedTensors, kFp8, v1::PER_TENSOR, Input::kNone, false, false, true},
    LegalRow{kCompressedTensors, kFp8, v1::PER_TENSOR, Input::kStatic, true, false},
    LegalRow{kCompressedTensors, kFp8, v1::PER_BLOCK, Input::kGroup, true, false},
    LegalRow{kCompressedTensors, v1::NUMERIC_INT8, v1::PER_CHANNEL, Input::kToken, true, false,
             true},
    LegalRow{kFp8Dialect, kFp8, v1::PER_TENSOR, Input::kToken, true, true},
    LegalRow{kFp8Dialect, kFp8, v1::PER_TENSOR, Input::kStatic, true, true},
    LegalRow{kFp8Dialect, kFp8, v1::PER_BLOCK, Input::kGroup, true, false},
    LegalRow{kQuarkDialect, kFp8, v1::PER_TENSOR, Input::kStatic, true, true},
};

constexpr int kBlock = 128;

// Nothing where no row could mean it: dynamic per tensor, static per token.
std::optional<Input> InputOf(const v1::Scheme& scheme) {
  if (!scheme.has_input()) return Input::kNone;
  const v1::NumericFormat& input = scheme.input();
  if (input.granularity() == v1::PER_TENSOR && !input.dynamic()) return Input::kStatic;
  if (input.granularity() == v1::PER_TOKEN && input.dynamic()) return Input::kToken;
  if (input.granularity() == v1::PER_GROUP && input.dynamic()) return Input::kGroup;
  return std::nullopt;
}

bool Matches(const LegalRow& row, const v1::Scheme& scheme, std::string_view dialect) {
  const auto type = scheme.weight().type();
  return row.dialect == dialect && row.type == type &&
         row.weight_scale == scheme.weight().granularity() && row.input == InputOf(scheme) &&
         (!scheme.has_input() || scheme.input().type() == type);
}

// Why a scheme is in no row of its dialect, in the words of the readers.
std::string_view WhyNot(const v1::Scheme& scheme, std::string_view dialect) {
  const auto weight = scheme.weight().type();
  const auto scale = scheme.weight().granularity();
  const std::optional<Input> input = InputOf(scheme);
  if (scheme.has_input() && scheme.input().type() != weight) {
    return "readers have no product of mixed types; weight and input must have the same type";
  }
  if (!input) return "an input's scale is found at run time per token or group, or once per tensor";
  if (dialect != kCompressedTensors) {
    if (weight == v1::NUMERIC_INT8) return "the dialect has no INT8";
    if (scale == v1::PER_CHANNEL) return "the dialect has one scale per matrix, none per channel";
    if (input == Input::kNone) return "the dialect has no weights without FP8 inputs";
  }
  if (dialect == kQuarkDialect) {
    if (scale == v1::PER_BLOCK) return "the dialect has one scale per matrix, none per block";
    return "the dialect's dynamic inputs have one scale for a whole batch, so that a token's "
           "result "
           "would depend on its neighbours";
  }
  if (weight == v1::NUMERIC_INT8 && input == Input::kNone) {
    return "INT8 weights without INT8 inputs are stored packed, which Octavo does not write";
  }
  if (weight == v1::NUMERIC_INT8) return "INT8 takes scale: channel with input scale: token";
  if (scale == v1::PER_BLOCK) return "block scales take inputs of {type: fp8, scale: group}";
  if (input == Input::kGroup) return "tensor and channel scales take inputs of scale: token";
  return "the dialect cannot say it";
}

absl::Status Refuse(const v1::Scheme& scheme, std::string_view where, std::string_view why) {
  return MakeError(Reason::kBadRecipe,
                   fmt::format("{}: {} is not possible: {}", where, SchemeText(scheme), why));
}

// Why a scheme that layers may have is none of the output head.
std::string_view WhyNotHead(const v1::Scheme& scheme, std::string_view dialect) {
  if (dialect != kCompressedTensors) return "readers of this dialect keep lm_head as it is";
  if (scheme.weight().granularity() == v1::PER_BLOCK) {
    return "vLLM takes a head's scales by rows of the vocabulary, not by blocks";
  }
  return "what lm_head reads is not observed; it takes inputs of scale: token, or none";
}

absl::Status CheckDialect(std::string_view dialect, std::string_view where) {
  for (const std::string_view known : kDialects) {
    if (known == dialect) return absl::OkStatus();
  }
  return MakeError(Reason::kBadRecipe, fmt::format("{}: dialect '{}' is not known", where, dialect),
                   {}, fmt::format("Dialects: {}", fmt::join(kDialects, ", ")));
}

absl::Status CheckCalibration(const v1::Calibration& calibration, std::string_view where) {
  auto bad = [&](std::string_view what) {
    return MakeError(Reason::kBadRecipe, fmt::format("{}: {}", where, what));
  };
  if (calibration.observer() != v1::OBSERVER_ABSMAX && calibration.observer() != v1::OBSERVER_MSE &&
      calibration.observer() != v1::OBSERVER_PERCENTILE) {
    return bad("no observer is given");
  }
  const bool percentile = calibration.observer() == v1::OBSERVER_PERCENTILE;
  if (percentile != (calibration.percentile() != 0)) {
    return bad("'percentile' goes with observer: percentile, and only with it");
  }
  if (percentile && !(calibration.percentile() > 0 && calibration.percentile() <= 100)) {
    return bad("percentile must be above 0, at most 100");
  }
  if (calibration.samples() < 1 || calibration.samples() > kSamplesMax) {
    return bad(fmt::format("samples must be 1 to {}", kSamplesMax));
  }
  if (calibration.sample_length() < 1 || calibration.sample_length() > kSampleLengthMax) {
    return bad(fmt::format("sample_length must be 1 to {} tokens", kSampleLengthMax));
  }
  return absl::OkStatus();
}

absl::Status CheckSolver(const v1::Rule& rule, std::string_view where) {
  const v1::Scheme& scheme = rule.scheme();
  if (!rule.has_solver()) return absl::OkStatus();
  if (rule.solver().kind() != v1::SOLVER_GPTQ && rule.solver().kind() != v1::SOLVER_SPARSEGPT) {
    return MakeError(Reason::kBadRecipe, fmt::format("{}: this solver is not known", where), {},
                     "Solvers: gptq, sparsegpt");
  }
  if (!(rule.solver().damping() >= 0 && rule.solver().damping() <= kDampingMax)) {
    return MakeError(Reason::kBadRecipe,
                     fmt::format("{}: damping must be 0 to {}", where, kDampingMax));
  }
  if (scheme.weight().type() != v1::NUMERIC_KEEP) return absl::OkStatus();
  return MakeError(Reason::kBadRecipe, fmt::format("{}: a kept weight is not solved", where), {},
                   "Leave out solver");
}

// A rule that has lm_head among its roles.
absl::Status CheckHead(const v1::Rule& rule, const v1::Recipe& recipe, std::string_view where) {
  if (std::find(rule.roles().begin(), rule.roles().end(), v1::LM_HEAD) == rule.roles().end()) {
    return absl::OkStatus();
  }
  OCTAVO_RETURN_IF_ERROR(
      CheckLegal(rule.scheme(), rule.algorithm(), recipe.dialect(), Home::kHead, where));
  if (rule.has_solver()) {
    return MakeError(Reason::kBadRecipe,
                     fmt::format("{}: lm_head is rounded to nearest, not solved", where), {},
                     "Give lm_head a rule of its own without solver");
  }
  if (recipe.compat() == v1::COMPAT_NONE) return absl::OkStatus();
  return MakeError(Reason::kBadRecipe,
                   fmt::format("{}: no compatibility mode quantizes lm_head", where), {},
                   "Leave out compat, or lm_head");
}

absl::Status CheckStorage(const v1::Recipe& recipe) {
  if (recipe.storage() == v1::STORAGE_DENSE || recipe.dialect() == kCompressedTensors) {
    return absl::OkStatus();
  }
  return MakeError(Reason::kBadRecipe,
                   fmt::format("{}: the dialect {} has no storage {}", recipe.name(),
                               recipe.dialect(), StorageName(recipe.storage())),
                   {}, "Use the dialect compressed-tensors, or leave out storage");
}

absl::Status CheckSmoothing(const v1::Recipe& recipe) {
  if (!recipe.has_smooth()) return absl::OkStatus();
  auto bad = [&](std::string_view what, std::string_view cure) {
    return MakeError(Reason::kBadRecipe, fmt::format("{}: smooth: {}", recipe.name(), what), {},
                     cure);
  };
  const double strength = recipe.smooth().strength();
  if (!(strength > 0 && strength <= 1)) return bad("strength must be above 0, at most 1", "");
  if (recipe.compat() != v1::COMPAT_NONE) {
    return bad("no compatibility mode has powers of two", "Leave out compat");
  }
  for (const v1::Rule& rule : recipe.rules()) {
    if (!HasStaticInput(rule.scheme())) continue;
    return bad("it changes what layers read, and static scales are of what the source's read",
               "Leave out smooth, or take inputs of scale: token");
  }
  return absl::OkStatus();
}

}  // namespace

std::span<const std::string_view> DialectNames() { return kDialects; }

absl::Status CheckLegal(const v1::Scheme& scheme, v1::Algorithm algorithm, std::string_view dialect,
                        Home home, std::string_view where) {
  OCTAVO_RETURN_IF_ERROR(CheckDialect(dialect, where));
  if (scheme.weight().type() == v1::NUMERIC_KEEP) {
    if (scheme.has_input()) return Refuse(scheme, where, "a kept weight keeps its input");
    return absl::OkStatus();
  }
  if (algorithm != v1::ABSMAX && algorithm != v1::MSE) {
    return Refuse(scheme, where, "no algorithm is given");
  }
  if (scheme.weight().granularity() == v1::PER_BLOCK &&
      (scheme.weight().block_rows() != kBlock || scheme.weight().block_columns() != kBlock)) {
    return Refuse(scheme, where, "readers take blocks of 128 x 128 only");
  }
  if (scheme.input().granularity() == v1::PER_GROUP && scheme.input().block_columns() != kBlock) {
    return Refuse(scheme, where, "readers take groups of 128 only");
  }
  for (const LegalRow& row : kLegal) {
    if (!Matches(row, scheme, dialect)) continue;
    if (home == Home::kExpert && !row.experts) {
      return Refuse(scheme, where, "no reader has an expert kernel for it");
    }
    if (home == Home::kHead && !row.heads) {
      return Refuse(scheme, where, WhyNotHead(scheme, dialect));
    }
    if (home == Home::kStack && !row.stacks) {
      return Refuse(scheme, where,
                    fmt::format("the dialect {} has no such scales for experts that lie stacked in "
                                "one tensor; fp8 has one per expert",
                                dialect));
    }
    return absl::OkStatus();
  }
  return Refuse(scheme, where, fmt::format("{} ({})", WhyNot(scheme, dialect), dialect));
}

absl::Status CheckTogether(const v1::Scheme& first, const v1::Scheme& scheme,
                           std::string_view dialect, std::string_view where) {
  if (dialect == kCompressedTensors || first.SerializeAsString() == scheme.SerializeAsString()) {
    return absl::OkStatus();
  }
  return Refuse(
      scheme, where,
      fmt::format("the dialect {} has one scheme for all layers, and an earlier one is {}", dialect,
                  SchemeText(first)));
}

absl::Status CheckRecipe(const v1::Recipe& recipe, const RecipePlaces& places) {
  OCTAVO_RETURN_IF_ERROR(CheckDialect(recipe.dialect(), recipe.name()));
  const auto place = [](const std::string& given, std::string_view otherwise) {
    return given.empty() ? std::string(otherwise) : given;
  };
  OCTAVO_RETURN_IF_ERROR(CheckCompat(recipe));
  OCTAVO_RETURN_IF_ERROR(CheckStorage(recipe));
  const v1::Scheme* first = nullptr;
  std::string is_static;  // where the first static scale is asked for
  for (int i = 0; i < recipe.rules_size(); ++i) {
    const v1::Scheme& scheme = recipe.rules(i).scheme();
    const std::string where = static_cast<size_t>(i) < places.rules.size()
                                  ? places.rules[i]
                                  : fmt::format("rule {}", i + 1);
    OCTAVO_RETURN_IF_ERROR(
        CheckLegal(scheme, recipe.rules(i).algorithm(), recipe.dialect(), Home::kDense, where));
    if (scheme.weight().type() == v1::NUMERIC_KEEP) continue;
    OCTAVO_RETURN_IF_ERROR(CheckSolver(recipe.rules(i), where));
    OCTAVO_RETURN_IF_ERROR(CheckHead(recipe.rules(i), recipe, where));
    if (HasStaticInput(scheme) && is_static.empty()) is_static = where;
    if (first == nullptr) first = &scheme;
    OCTAVO_RETURN_IF_ERROR(CheckTogether(*first, scheme, recipe.dialect(), where));
  }
  if (recipe.has_kv_cache()) {
    const v1::NumericFormat& cache = recipe.kv_cache();
    const std::string where = place(places.kv_cache, "kv_cache");
    if (cache.type() != v1::NUMERIC_FP8_E4M3 || cache.granularity() != v1::PER_TENSOR ||
        cache.dynamic()) {
      return MakeError(Reason::kBadRecipe,
                       fmt::format("{}: readers have keys and values as {{type: fp8, scale: "
                                   "tensor}} only",
                                   where));
    }
    if (is_static.empty()) is_static = where;
  }
  OCTAVO_RETURN_IF_ERROR(CheckSmoothing(recipe));
  const bool by_layers = IsLayerwise(recipe);
  if (!recipe.has_calibration()) {
    if (by_layers) {
      return MakeError(Reason::kBadRecipe,
                       fmt::format("{}: {} needs a calibration, and the recipe has none",
                                   recipe.name(), HasSolver(recipe) ? "a solver" : "smooth"),
                       {}, "Add calibration: {samples: 512, sample_length: 2048}");
    }
    if (is_static.empty()) return absl::OkStatus();
    return MakeError(
        Reason::kBadRecipe,
        fmt::format("{}: a static scale needs a calibration, and the recipe has none", is_static),
        {}, "Add calibration: {observer: absmax, samples: 512, sample_length: 2048}");
  }
  const std::string where = place(places.calibration, "calibration");
  if (recipe.calibration().propagates_source() && !by_layers) {
    return MakeError(
        Reason::kBadRecipe,
        fmt::format("{}: 'propagate' goes with a solver or smooth, and there is none", where));
  }
  if (is_static.empty() && !by_layers) {
    return MakeError(
        Reason::kBadRecipe,
        fmt::format("{}: a calibration, but no rule has a solver or a static input, and there is "
                    "neither smooth nor a kv_cache",
                    where),
        {}, "Leave calibration out: nothing would be made of it");
  }
  return CheckCalibration(recipe.calibration(), where);
}

std::string DimensionWarning(const v1::Scheme& scheme, int64_t rows, int64_t columns) {
  if (scheme.weight().granularity() != v1::PER_BLOCK) return "";
  if (rows % scheme.weight().block_rows() == 0 && columns % scheme.weight().block_columns() == 0) {
    return "";
  }
  return fmt::format(
      "its shape [{}, {}] is not a multiple of the block [{}, {}]: vLLM refuses it and some "
      "readers get it wrong without saying so",
      rows, columns, scheme.weight().block_rows(), scheme.weight().block_columns());
}

}  // namespace octavo
