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

bool ShapeFits(const v1::NumericFormat& format, const v1::TensorSpec& weight,
               const v1::TensorSpec& scale) {
  const std::vector<int64_t> shape(scale.shape().begin(), scale.shape().end());
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

// `scale` is null where the folder has none.
absl::Status CheckInputScale(const v1::TensorSpec& weight, const v1::TensorSpec* scale) {
  if (scale == nullptr) {
    return BadTensor(
        weight,
        fmt::format("its input's scale {}.input_scale is missing", ModuleName(weight.name())),
        "Quantize the model again");
  }
  OCTAVO_RETURN_IF_ERROR(CheckScaleDType(*scale));
  if (std::all_of(scale->shape().begin(), scale->shape().end(), [](int64_t n) { return n == 1; })) {
    return absl::OkStatus();
  }
  return BadTensor(
      *scale,
      fmt::format("its shape [{}] is not that of one number", fmt::join(scale->shape(), ", ")),
      "A static input has one scale");
}

// Checks the weight and its scale against its group. `scale` is null where the folder has none.
absl::Status CheckPair(const v1::Scheme& scheme, const v1::TensorSpec& weight,
                       const v1::TensorSpec* scale) {
  const DType wanted = CodeDType(scheme.weight().type());
  if (FromProto(weight.dtype()) != wanted) {
    return BadTensor(weight,
                     fmt::format("its dtype is {} where quantization_config says {}",
                                 Name(FromProto(weight.dtype())), Name(wanted)),
                     "Quantize the model again");
  }
  const std::string scale_name = std::string(ModuleName(weight.name())) + ".weight_scale";
  if (weight.shape_size() != 2)
    return BadTensor(weight, "a quantized weight has two dimensions", "");
  if (scale == nullptr) {
    return BadTensor(weight, fmt::format("its scale {} is missing", scale_name),
                     "Quantize the model again; codes without scales mean nothing");
  }
  OCTAVO_RETURN_IF_ERROR(CheckScaleDType(*scale));
  if (!ShapeFits(scheme.weight(), weight, *scale)) {
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
    OCTAVO_ASSIGN_OR_RETURN(modules, ReadCompressedTensors(*section));
  }
  Quantization result;
  result.tensors.resize(tensors.size());
  Scales scales(tensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const v1::ModelTensor& tensor = tensors[i];
    TensorQuantization& own = result.tensors[i];
    own.is_scale = IsScaleName(tensor.spec().name());
    const bool linear =
        IsQuantizable(tensor.role()) || tensor.role() == v1::LM_HEAD || tensor.role() == v1::ROUTER;
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
    const v1::TensorSpec* scale = scales.Use(module + ".weight_scale");
    OCTAVO_RETURN_IF_ERROR(CheckPair(*scheme, tensor.spec(), scale));
    own.quantized = true;
    own.scheme = *scheme;
    own.scale = *scale;
    if (!scheme->has_input() || scheme->input().dynamic()) continue;
    const v1::TensorSpec* input_scale = scales.Use(module + ".input_scale");
    OCTAVO_RETURN_IF_ERROR(CheckInputScale(tensor.spec(), input_scale));
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
