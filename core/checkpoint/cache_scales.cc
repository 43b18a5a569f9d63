#include "core/checkpoint/cache_scales.h"

#include <algorithm>
#include <map>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/recipe.h"
#include "core/tensor/dtype.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

using SpecsByName = absl::flat_hash_map<std::string, const v1::TensorSpec*>;

// "a.b" of "a.b.c".
std::string ParentOf(std::string_view name) { return std::string(name.substr(0, name.rfind('.'))); }

absl::StatusOr<v1::TensorSpec> FirstOf(const SpecsByName& specs,
                                       const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    const auto found = specs.find(name);
    if (found == specs.end()) continue;
    const v1::TensorSpec& spec = *found->second;
    const ErrorSite site = {.file = spec.file(), .tensor = spec.name()};
    if (!IsSourceFloat(FromProto(spec.dtype()))) {
      return MakeError(Reason::kBadCheckpoint,
                       fmt::format("a scale of dtype {}", Name(FromProto(spec.dtype()))), site,
                       "Scales are F32, F16 or BF16");
    }
    if (std::any_of(spec.shape().begin(), spec.shape().end(), [](int64_t n) { return n != 1; })) {
      return MakeError(Reason::kUnsupported,
                       fmt::format("a cache scale of shape [{}]", fmt::join(spec.shape(), ", ")),
                       site, "Calibrate one scale per layer, not per head");
    }
    return spec;
  }
  return MakeError(Reason::kBadCheckpoint,
                   "the scale of the layer's keys or values in an FP8 cache is missing",
                   {.file = "config.json", .tensor = names.front()}, "Quantize the model again");
}

}  // namespace

absl::StatusOr<std::vector<v1::CacheScales>> FindCacheScales(
    std::span<const v1::ModelTensor> tensors) {
  SpecsByName specs;
  std::map<int32_t, std::string> keys, values;  // modules by layer
  for (const v1::ModelTensor& tensor : tensors) {
    const std::string& name = tensor.spec().name();
    specs.emplace(name, &tensor.spec());
    const v1::TensorRole role = tensor.role();
    const std::string module(ModuleName(name));
    if (role == v1::K_PROJ || role == v1::FUSED_QKV) keys.emplace(tensor.layer(), module);
    if (role == v1::V_PROJ || role == v1::FUSED_QKV) values.emplace(tensor.layer(), module);
  }
  std::vector<v1::CacheScales> layers;
  for (const auto& [layer, key] : keys) {
    const std::string attention = ParentOf(key);
    const bool fused = key == values[layer];
    const auto names = [&](const char* own, const std::string& projection) {
      std::vector<std::string> candidates = {attention + own};
      if (!fused) candidates.push_back(projection + ".output_scale");
      candidates.push_back(attention + ".kv_scale");
      return candidates;
    };
    v1::CacheScales& scales = layers.emplace_back();
    OCTAVO_ASSIGN_OR_RETURN(*scales.mutable_key(), FirstOf(specs, names(".k_scale", key)));
    OCTAVO_ASSIGN_OR_RETURN(*scales.mutable_value(),
                            FirstOf(specs, names(".v_scale", values[layer])));
  }
  return layers;
}

}  // namespace octavo
