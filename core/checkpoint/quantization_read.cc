// Pairs weights with their scales, under what quantization_config says.

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/cache_scales.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/dialect.h"
#include "core/checkpoint/module_schemes.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;

absl::Status BadTensor(const v1::TensorSpec& spec, std::string_view what, std::string_view cure) {
  return MakeError(Reason::kBadCheckpoint, what, {.file = spec.file(), .tensor = spec.name()},
                   cure);
}

// One number for each expert of a stack: [experts] or [experts, 1]. How many experts there are is
// known where the stack is taken apart (core/plan/unfuse.h).
bool FitsStack(const v1::TensorSpec& weight, const v1::TensorSpec& scale) {
  return scale.shape_size() >= 1 && scale.shape_size() <= 2 &&
         (scale.shape_size() == 1 || scale.shape(1) == 1) && scale.shape(0) > 0 &&
         weight.shape(0) % scale.shape(0) == 0;
}

bool ShapeFits(const v1::NumericFormat& format, const v1::ModelTensor& tensor,
               const v1::TensorSpec& scale) {
  const v1::TensorSpec& weight = tensor.spec();
  const std::vector<int64_t> shape(scale.shape().begin(), scale.shape().end());
  if (IsStack(tensor.role()) && format.granularity() == v1::PER_TENSOR) {
    return FitsStack(weight, scale);
  }
  const std::vector<int64_t> wanted = ScaleGridOf(weight, format);
  if (shape == wanted) return true;
  if (format.granularity() == v1::PER_TENSOR) {
    return shape.empty() || shape == std::vector<int64_t>{1, 1};
  }
  return format.granularity() == v1::PER_CHANNEL && shape.size() == 1 && shape[0] == wanted[0];
}

absl::Status CheckScaleDType(const v1::TensorSpec& scale) {
  if (IsSourceFloat(FromProto(scale.dtype()))) return absl::OkStatus();
  return BadTensor(scale, fmt::format("a scale of dtype {}", Name(FromProto(scale.dtype()))),
                   "Scales are F32, F16 or BF16");
}

// Names of the scales beside a weight: "X.weight_scale" beside X.weight, "P.w1_weight_scale" beside
// the stack P.w1_weight.
struct ScaleNames {
  std::string weight;
  std::string input;
};
ScaleNames ScaleNamesOf(const v1::ModelTensor& tensor, const v1::Scheme& scheme,
                        std::string_view block_scale) {
  std::string name(ModuleName(tensor.spec().name()));
  constexpr std::string_view kStackedCodes = "_weight";
  if (IsStack(tensor.role()) && name.ends_with(kStackedCodes)) {
    name.resize(name.size() - kStackedCodes.size());
    return {name + "_weight_scale", name + "_input_scale"};
  }
  const bool blocks = scheme.weight().granularity() == v1::PER_BLOCK;
  const std::string_view part = blocks ? block_scale : ".weight_scale";
  return {name + std::string(part), name + ".input_scale"};
}

// `scale` is null where the folder has none.
absl::Status CheckInputScale(const v1::ModelTensor& tensor, const std::string& scale_name,
                             const v1::TensorSpec* scale) {
  if (scale == nullptr) {
    return BadTensor(tensor.spec(), fmt::format("its input's scale {} is missing", scale_name),
                     "Quantize the model again");
  }
  OCTAVO_RETURN_IF_ERROR(CheckScaleDType(*scale));
  if (IsStack(tensor.role()) && FitsStack(tensor.spec(), *scale)) return absl::OkStatus();
  if (std::all_of(scale->shape().begin(), scale->shape().end(), [](int64_t n) { return n == 1; })) {
    return absl::OkStatus();
  }
  return BadTensor(
      *scale,
      fmt::format("its shape [{}] is not that of one number", fmt::join(scale->shape(), ", ")),
      "A static input has one scale");
}

// Checks the weight and its scale against its group. `scale` is null where the folder has none.
absl::Status CheckPair(const v1::Scheme& scheme, const v1::ModelTensor& tensor,
                       const std::string& scale_name, const v1::TensorSpec* scale) {
  const v1::TensorSpec& weight = tensor.spec();
  const DType wanted = CodeDType(scheme.weight().type());
  if (FromProto(weight.dtype()) != wanted) {
    return BadTensor(weight,
                     fmt::format("its dtype is {} where quantization_config says {}",
                                 Name(FromProto(weight.dtype())), Name(wanted)),
                     "Quantize the model again");
  }
  if (weight.shape_size() != 2)
    return BadTensor(weight, "a quantized weight has two dimensions", "");
  if (scale == nullptr) {
    return BadTensor(weight, fmt::format("its scale {} is missing", scale_name),
                     "Quantize the model again; codes without scales mean nothing");
  }
  OCTAVO_RETURN_IF_ERROR(CheckScaleDType(*scale));
  if (!ShapeFits(scheme.weight(), tensor, *scale)) {
    return BadTensor(*scale,
                     fmt::format("its shape [{}] does not fit {} of a [{}] weight",
                                 fmt::join(scale->shape(), ", "), SchemeText(scheme),
                                 fmt::join(weight.shape(), ", ")),
                     "Quantize the model again");
  }
  return absl::OkStatus();
}

// The scale tensors of a folder, and which of them belong to something.
class Scales {
 public:
  explicit Scales(std::span<const v1::ModelTensor> tensors) {
    for (const v1::ModelTensor& tensor : tensors) {
      if (IsScaleName(tensor.spec().name())) unused_.emplace(tensor.spec().name(), &tensor.spec());
    }
  }

  // Null where the folder has no such tensor, or it was asked for before.
  const v1::TensorSpec* Use(const std::string& name) {
    const auto found = unused_.find(name);
    if (found == unused_.end()) return nullptr;
    const v1::TensorSpec* spec = found->second;
    unused_.erase(found);
    return spec;
  }

  absl::Status CheckAllUsed() const {
    if (unused_.empty()) return absl::OkStatus();
    return BadTensor(*unused_.begin()->second, "a scale that belongs to no quantized weight",
                     "Asymmetric and foreign scales are not handled");
  }

 private:
  std::map<std::string, const v1::TensorSpec*> unused_;
};

}  // namespace

absl::StatusOr<Quantization> ReadQuantization(const ordered_json& config,
                                              std::span<const v1::ModelTensor> tensors) {
  ModuleSchemes modules;
  const auto section = config.find("quantization_config");
  if (section != config.end() && !section->is_null()) {
    OCTAVO_ASSIGN_OR_RETURN(modules, ReadModuleSchemes(*section));
  }
  Quantization result;
  result.tensors.resize(tensors.size());
  Scales scales(tensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const v1::ModelTensor& tensor = tensors[i];
    TensorQuantization& own = result.tensors[i];
    own.is_scale = IsScaleName(tensor.spec().name());
    const bool outside = tensor.role() == v1::LM_HEAD || tensor.role() == v1::ROUTER;
    const bool linear = IsQuantizable(tensor.role()) || (outside && !modules.only_layers);
    if (own.is_scale || tensor.role() == v1::IGNORED) continue;
    // A stack is no module of its own: what targets "Linear" does not mean it.
    if (IsStack(tensor.role()) && IsSourceFloat(FromProto(tensor.spec().dtype()))) continue;
    const std::string module(ModuleName(tensor.spec().name()));
    const v1::Scheme* scheme = linear ? modules.SchemeOf(module) : nullptr;
    if (scheme == nullptr) {
      if (IsSourceFloat(FromProto(tensor.spec().dtype()))) continue;
      return BadTensor(tensor.spec(),
                       fmt::format("dtype {}, but config.json does not say that it is quantized",
                                   Name(FromProto(tensor.spec().dtype()))),
                       "Restore quantization_config, or quantize the model again");
    }
    const ScaleNames names = ScaleNamesOf(tensor, *scheme, modules.block_scale);
    const v1::TensorSpec* scale = scales.Use(names.weight);
    OCTAVO_RETURN_IF_ERROR(CheckPair(*scheme, tensor, names.weight, scale));
    own.quantized = true;
    own.scheme = *scheme;
    own.scale = *scale;
    if (!scheme->has_input() || scheme->input().dynamic()) continue;
    const v1::TensorSpec* input_scale = scales.Use(names.input);
    OCTAVO_RETURN_IF_ERROR(CheckInputScale(tensor, names.input, input_scale));
    own.input_scale = *input_scale;
  }
  if (modules.fp8_cache) {
    OCTAVO_ASSIGN_OR_RETURN(result.cache_scales, FindCacheScales(tensors));
    for (const v1::CacheScales& layer : result.cache_scales) {
      scales.Use(layer.key().name());
      scales.Use(layer.value().name());
    }
  }
  OCTAVO_RETURN_IF_ERROR(scales.CheckAllUsed());
  return result;
}

}  // namespace octavo
