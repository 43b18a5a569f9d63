#include "core/checkpoint/quark_dialect.h"

#include <string_view>

#include "core/checkpoint/dialect.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;

// The version of the format that we write; readers show it and decide nothing by it.
constexpr char kFormatVersion[] = "0.8";

std::string_view ObserverClass(v1::Observer observer) {
  switch (observer) {
    case v1::OBSERVER_PERCENTILE:
      return "PerTensorPercentileObserver";
    case v1::OBSERVER_MSE:
      return "PerTensorMSEObserver";
    default:
      return "PerTensorMinMaxObserver";
  }
}

// FP8 with one static scale: all that the dialect is used for.
ordered_json SpecJson(std::string_view observer_class) {
  ordered_json spec;
  spec["dtype"] = "fp8_e4m3";
  spec["is_dynamic"] = false;
  spec["qscheme"] = "per_tensor";
  spec["ch_axis"] = nullptr;
  spec["group_size"] = nullptr;
  spec["symmetric"] = nullptr;
  spec["round_method"] = nullptr;
  spec["scale_type"] = nullptr;
  spec["observer_cls"] = observer_class;
  return spec;
}

}  // namespace

ordered_json QuarkJson(const v1::Recipe& recipe, const v1::ModelSpec&,
                       std::span<const v1::ModelTensor> tensors,
                       std::span<const TensorScheme> schemes) {
  v1::Algorithm algorithm = v1::ABSMAX;
  for (const TensorScheme& scheme : schemes) {
    if (scheme.scheme != nullptr) algorithm = scheme.algorithm;
  }
  const std::string_view observed = ObserverClass(recipe.calibration().observer());
  ordered_json layer;
  layer["weight"] =
      SpecJson(ObserverClass(algorithm == v1::MSE ? v1::OBSERVER_MSE : v1::OBSERVER_ABSMAX));
  layer["input_tensors"] = SpecJson(observed);
  layer["output_tensors"] = nullptr;
  layer["bias"] = nullptr;
  layer["target_device"] = nullptr;

  ordered_json config;
  config["quant_method"] = "quark";
  config["quant_mode"] = "eager_mode";
  config["version"] = kFormatVersion;
  config["algo_config"] = nullptr;
  config["softmax_quant_spec"] = nullptr;
  config["exclude"] = KeptModules(tensors, schemes);
  config["global_quant_config"] = layer;
  config["layer_type_quant_config"] = ordered_json::object();
  config["layer_quant_config"] = ordered_json::object();
  ordered_json cached = ordered_json::array();
  if (recipe.has_kv_cache()) {
    layer["output_tensors"] = SpecJson(observed);
    for (const char* pattern : {"*k_proj", "*v_proj"}) {
      config["layer_quant_config"][pattern] = layer;
      cached.push_back(pattern);
    }
  }
  ordered_json& exported = config["export"];
  exported["kv_cache_group"] = std::move(cached);
  exported["min_kv_scale"] = 0.0;
  exported["pack_method"] = "reorder";
  exported["weight_format"] = "real_quantized";
  exported["weight_merge_groups"] = nullptr;
  return config;
}

}  // namespace octavo
