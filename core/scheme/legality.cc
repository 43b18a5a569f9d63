#include "core/scheme/legality.h"

#include <array>

#include "core/base/error.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// A scheme that the compressed-tensors dialect can say. NUMERIC_KEEP as input: activations stay.
struct LegalRow {
  v1::NumericType weight;
  v1::Granularity weight_scale;
  v1::NumericType input;
  v1::Granularity input_scale;
  bool experts;  // also for experts of a mixture
};

constexpr std::array kLegal = {
    LegalRow{v1::NUMERIC_FP8_E4M3, v1::PER_CHANNEL, v1::NUMERIC_FP8_E4M3, v1::PER_TOKEN, true},
    LegalRow{v1::NUMERIC_FP8_E4M3, v1::PER_CHANNEL, v1::NUMERIC_KEEP, v1::GRANULARITY_UNSPECIFIED,
             false},
    LegalRow{v1::NUMERIC_FP8_E4M3, v1::PER_TENSOR, v1::NUMERIC_FP8_E4M3, v1::PER_TOKEN, false},
    LegalRow{v1::NUMERIC_FP8_E4M3, v1::PER_TENSOR, v1::NUMERIC_KEEP, v1::GRANULARITY_UNSPECIFIED,
             false},
    LegalRow{v1::NUMERIC_FP8_E4M3, v1::PER_BLOCK, v1::NUMERIC_FP8_E4M3, v1::PER_GROUP, true},
    LegalRow{v1::NUMERIC_INT8, v1::PER_CHANNEL, v1::NUMERIC_INT8, v1::PER_TOKEN, true},
};

constexpr int kBlock = 128;

// Why a scheme is in no row, in the words of the readers.
std::string_view WhyNot(const v1::Scheme& scheme, bool experts) {
  const auto weight = scheme.weight().type();
  const auto scale = scheme.weight().granularity();
  const bool has_input = scheme.has_input();
  if (has_input && scheme.input().type() != weight) {
    return "readers have no product of mixed types; weight and input must have the same type";
  }
  if (weight == v1::NUMERIC_INT8 && !has_input) {
    return "INT8 weights without INT8 inputs are stored packed, which Octavo does not write";
  }
  if (weight == v1::NUMERIC_INT8) return "INT8 takes scale: channel with input scale: token";
  if (scale == v1::PER_BLOCK) return "block scales take inputs of {type: fp8, scale: group}";
  if (has_input && scheme.input().granularity() != v1::PER_TOKEN) {
    return "tensor and channel scales take inputs of scale: token";
  }
  if (experts) return "no reader has an expert kernel for it";
  return "the dialect cannot say it";
}

absl::Status Refuse(const v1::Scheme& scheme, std::string_view where, std::string_view why) {
  return MakeError(Reason::kBadRecipe,
                   fmt::format("{}: {} is not possible: {}", where, SchemeText(scheme), why));
}

}  // namespace

absl::Status CheckLegal(const v1::Scheme& scheme, v1::Algorithm algorithm, std::string_view dialect,
                        bool experts, std::string_view where) {
  if (dialect != "compressed-tensors") {
    return MakeError(Reason::kBadRecipe,
                     fmt::format("{}: dialect '{}' is not known", where, dialect), {},
                     "Use compressed-tensors");
  }
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
  const auto input = scheme.has_input() ? scheme.input().type() : v1::NUMERIC_KEEP;
  for (const LegalRow& row : kLegal) {
    if (row.weight == scheme.weight().type() && row.weight_scale == scheme.weight().granularity() &&
        row.input == input && row.input_scale == scheme.input().granularity() &&
        (row.experts || !experts)) {
      return absl::OkStatus();
    }
  }
  return Refuse(scheme, where, WhyNot(scheme, experts));
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
