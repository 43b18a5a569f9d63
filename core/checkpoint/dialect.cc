#include "core/checkpoint/dialect.h"

#include <array>

#include "core/base/status.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/config_json.h"
#include "core/checkpoint/fp8_dialect.h"
#include "core/checkpoint/quark_dialect.h"
#include "core/scheme/legality.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;

// What follows the name of a stack in that of its codes.
constexpr std::string_view kStackedCodes = "_weight";

struct Dialect {
  std::string_view name;
  bool scalars;             // one number is a tensor without dimensions, not [1]
  bool follows_weight;      // scales are BF16 beside BF16 weights
  std::string_view blocks;  // what follows a module in the name of its block scales
  bool output_scales;       // cache scales are those of the projections' outputs
  decltype(&CompressedTensorsJson) config;
};

constexpr std::array kDialects = {
    Dialect{kCompressedTensors, false, true, ".weight_scale", false, &CompressedTensorsJson},
    Dialect{kFp8Dialect, true, false, ".weight_scale_inv", false, &Fp8Json},
    Dialect{kQuarkDialect, true, false, "", true, &QuarkJson},
};

const Dialect& DialectOf(std::string_view name) {
  for (const Dialect& dialect : kDialects) {
    if (dialect.name == name) return dialect;
  }
  OCTAVO_CHECK(false);
  return kDialects.front();
}

DType ScaleDType(const Dialect& dialect, const v1::ModelTensor& weight) {
  return dialect.follows_weight && weight.spec().dtype() == v1::BF16 ? DType::kBF16 : DType::kF32;
}

// One number, or one for each expert of a stack.
std::vector<int64_t> OneEach(const Dialect& dialect, const v1::ModelSpec& model,
                             const v1::ModelTensor& weight) {
  if (IsStack(weight.role())) return {model.expert_count()};
  return dialect.scalars ? std::vector<int64_t>{} : std::vector<int64_t>{1};
}

// "P.w1_weight_scale" of a stack P.w1, "X.weight_scale" of any other X.weight.
std::string NameBeside(const v1::ModelTensor& weight, std::string_view part) {
  std::string name(ModuleName(weight.spec().name()));
  if (!IsStack(weight.role())) return name.append(part);
  if (name.ends_with(kStackedCodes)) name.resize(name.size() - kStackedCodes.size());
  return name.append("_").append(part.substr(1));
}

}  // namespace

DType CodeDType(v1::NumericType type) {
  if (type == v1::NUMERIC_FP8_E4M3) return DType::kF8E4M3;
  return type == v1::NUMERIC_INT8 ? DType::kI8 : DType::kInvalid;
}

std::string CodesNameOf(const v1::ModelTensor& weight) {
  return IsStack(weight.role()) ? NameBeside(weight, ".weight") : weight.spec().name();
}

std::vector<int64_t> ScaleGridOf(const v1::TensorSpec& weight, const v1::NumericFormat& format) {
  const auto blocks = [](int64_t size, int64_t block) { return (size + block - 1) / block; };
  switch (format.granularity()) {
    case v1::PER_TENSOR:
      return {1};
    case v1::PER_BLOCK:
      return {blocks(weight.shape(0), format.block_rows()),
              blocks(weight.shape(1), format.block_columns())};
    default:
      return {weight.shape(0), 1};
  }
}

ScaleShape WeightScaleOf(std::string_view dialect, const v1::ModelSpec& model,
                         const v1::ModelTensor& weight, const v1::NumericFormat& format) {
  const Dialect& row = DialectOf(dialect);
  ScaleShape scale{NameBeside(weight, ".weight_scale"), ScaleDType(row, weight),
                   ScaleGridOf(weight.spec(), format)};
  if (format.granularity() == v1::PER_TENSOR) scale.shape = OneEach(row, model, weight);
  if (format.granularity() == v1::PER_BLOCK) scale.name = NameBeside(weight, row.blocks);
  return scale;
}

ScaleShape InputScaleOf(std::string_view dialect, const v1::ModelSpec& model,
                        const v1::ModelTensor& weight) {
  const Dialect& row = DialectOf(dialect);
  return {NameBeside(weight, ".input_scale"), ScaleDType(row, weight), OneEach(row, model, weight)};
}

std::vector<CacheScale> CacheScalesOf(std::string_view dialect, const v1::ModelTensor& weight) {
  const Dialect& row = DialectOf(dialect);
  const bool key = weight.role() == v1::K_PROJ || weight.role() == v1::FUSED_QKV;
  const bool value = weight.role() == v1::V_PROJ || weight.role() == v1::FUSED_QKV;
  const std::string module(ModuleName(weight.spec().name()));
  const std::string attention = module.substr(0, module.rfind('.'));
  const std::vector<int64_t> shape = row.scalars ? std::vector<int64_t>{} : std::vector<int64_t>{1};
  std::vector<CacheScale> scales;
  const auto add = [&](const char* name, v1::ObservedPoint point) {
    const std::string full = row.output_scales ? module + ".output_scale" : attention + name;
    scales.push_back({{full, ScaleDType(row, weight), shape}, point});
  };
  if (key) add(".k_scale", v1::OBSERVED_KEY);
  if (value) add(".v_scale", v1::OBSERVED_VALUE);
  return scales;
}

v1::ObservedPoint InputPointOf(v1::TensorRole role) {
  switch (role) {
    case v1::Q_PROJ:
    case v1::K_PROJ:
    case v1::V_PROJ:
    case v1::FUSED_QKV:
      return v1::OBSERVED_ATTENTION_INPUT;
    case v1::O_PROJ:
      return v1::OBSERVED_ATTENTION_OUTPUT;
    case v1::GATE_PROJ:
    case v1::UP_PROJ:
    case v1::EXPERT_GATE:
    case v1::EXPERT_UP:
    case v1::STACKED_GATE:
    case v1::STACKED_UP:
      return v1::OBSERVED_MLP_INPUT;
    case v1::DOWN_PROJ:
    case v1::EXPERT_DOWN:
    case v1::STACKED_DOWN:
      return v1::OBSERVED_MLP_INNER;
    default:
      return v1::OBSERVED_UNSPECIFIED;
  }
}

ordered_json QuantizationConfigJson(const v1::Recipe& recipe, const v1::ModelSpec& model,
                                    std::span<const v1::ModelTensor> tensors,
                                    std::span<const TensorScheme> schemes) {
  return DialectOf(recipe.dialect()).config(recipe, model, tensors, schemes);
}

std::string QuantizedConfigText(ordered_json config, ordered_json quantization_config) {
  config["quantization_config"] = std::move(quantization_config);
  return JsonText(config);
}

std::set<std::string> KeptModules(std::span<const v1::ModelTensor> tensors,
                                  std::span<const TensorScheme> schemes) {
  std::set<std::string> kept = {"lm_head"};
  for (size_t i = 0; i < tensors.size(); ++i) {
    const v1::TensorRole role = tensors[i].role();
    const bool linear = IsQuantizable(role) || role == v1::LM_HEAD || role == v1::ROUTER;
    if (!linear) continue;
    const std::string module(ModuleName(tensors[i].spec().name()));
    if (schemes[i].scheme == nullptr) {
      kept.insert(module);
    } else {
      kept.erase(module);
    }
  }
  return kept;
}

}  // namespace octavo
