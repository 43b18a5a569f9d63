#include "core/checkpoint/quark_dialect.h"

#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/status.h"
#include "core/checkpoint/dialect.h"
#include "core/checkpoint/module_schemes.h"
#include "core/checkpoint/quantization_json.h"
#include "core/scheme/compat.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;

// The version of the format that we write; readers show it and decide nothing by it.
constexpr std::string_view kFormatVersion = "0.8";

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

// {dtype: fp8_e4m3, qscheme: per_tensor | per_channel, is_dynamic: false}.
absl::Status ReadSpec(const ordered_json& spec, std::string_view what, v1::NumericFormat* format) {
  if (!spec.is_object()) return BadQuantization(fmt::format("{} is not an object", what));
  const std::string dtype = TextMember(spec, "dtype");
  if (dtype != "fp8_e4m3") {
    return UnsupportedQuantization(fmt::format("{}: dtype '{}' is not handled", what, dtype));
  }
  format->set_type(v1::NUMERIC_FP8_E4M3);
  const ordered_json* dynamic = FindMember(spec, "is_dynamic");
  if (dynamic != nullptr && *dynamic != false) {
    return UnsupportedQuantization(fmt::format(
        "{}: dynamic scales of this dialect are of a whole batch and not handled", what));
  }
  const std::string scheme = TextMember(spec, "qscheme");
  const ordered_json* axis = FindMember(spec, "ch_axis");
  if (scheme == "per_tensor") {
    format->set_granularity(v1::PER_TENSOR);
  } else if (scheme == "per_channel" && (axis == nullptr || *axis == 0)) {
    format->set_granularity(v1::PER_CHANNEL);
  } else {
    return UnsupportedQuantization(fmt::format("{}: qscheme '{}' is not handled", what, scheme));
  }
  return absl::OkStatus();
}

absl::Status ReadStatic(const ordered_json& spec, std::string_view what,
                        v1::NumericFormat* format) {
  OCTAVO_RETURN_IF_ERROR(ReadSpec(spec, what, format));
  if (format->granularity() == v1::PER_TENSOR) return absl::OkStatus();
  return UnsupportedQuantization(fmt::format("{}: handled with qscheme per_tensor only", what));
}

// What a layer's config says of weight and input. `cached`: its output is the cache.
absl::Status ReadLayer(const ordered_json& layer, const std::string& what, bool cached,
                       v1::Scheme* scheme) {
  const ordered_json* weight = FindMember(layer, "weight");
  if (weight == nullptr) return UnsupportedQuantization(fmt::format("{} has no weight", what));
  OCTAVO_RETURN_IF_ERROR(ReadSpec(*weight, what + ".weight", scheme->mutable_weight()));
  if (const ordered_json* input = FindMember(layer, "input_tensors")) {
    OCTAVO_RETURN_IF_ERROR(ReadStatic(*input, what + ".input_tensors", scheme->mutable_input()));
  }
  if (FindMember(layer, "bias") != nullptr) {
    return UnsupportedQuantization(fmt::format("{}: quantized biases are not handled", what));
  }
  const ordered_json* output = FindMember(layer, "output_tensors");
  if (output == nullptr && !cached) return absl::OkStatus();
  if (output == nullptr || !cached) {
    return UnsupportedQuantization(
        fmt::format("{}: outputs are quantized where export.kv_cache_group says so", what));
  }
  v1::NumericFormat cache;
  return ReadStatic(*output, what + ".output_tensors", &cache);
}

// The patterns of the projections whose outputs are the cache.
absl::StatusOr<std::set<std::string>> ReadCacheGroup(const ordered_json& config) {
  std::set<std::string> patterns;
  const ordered_json* exported = FindMember(config, "export");
  if (exported == nullptr) return BadQuantization("it lacks export");
  OCTAVO_RETURN_IF_ERROR(CheckExport(*exported));
  const ordered_json* group = FindMember(*exported, "kv_cache_group");
  if (group == nullptr) return patterns;
  if (!group->is_array()) return BadQuantization("export.kv_cache_group is not a list");
  for (const ordered_json& item : *group) {
    if (!item.is_string()) return BadQuantization("an item of kv_cache_group is not text");
    patterns.insert(item.get<std::string>());
  }
  return patterns;
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
  const CompatMode& mode = CompatModeOf(recipe.compat());
  config["version"] = mode.quark_version.empty() ? kFormatVersion : mode.quark_version;
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
  if (mode.compat == v1::COMPAT_QUARK_0_13) {  // where that version looks for the cache
    ordered_json cache = config["layer_quant_config"];
    config["kv_cache_quant_config"] = std::move(cache);
    config["kv_cache_post_rope"] = false;
  }
  ordered_json& exported = config["export"];
  exported["kv_cache_group"] = std::move(cached);
  exported["min_kv_scale"] = 0.0;
  exported["pack_method"] = "reorder";
  exported["weight_format"] = "real_quantized";
  exported["weight_merge_groups"] = nullptr;
  return config;
}

absl::StatusOr<ModuleSchemes> ReadQuark(const ordered_json& config) {
  ModuleSchemes modules;
  modules.all_linear = 0;
  modules.only_layers = true;
  v1::Scheme& scheme = modules.schemes.emplace_back();
  const ordered_json* global = FindMember(config, "global_quant_config");
  if (global == nullptr) return BadQuantization("it lacks global_quant_config");
  OCTAVO_RETURN_IF_ERROR(ReadLayer(*global, "global_quant_config", /*cached=*/false, &scheme));
  OCTAVO_RETURN_IF_ERROR(ReadKept(config, "exclude", /*globs=*/true, &modules));
  const ordered_json* by_type = FindMember(config, "layer_type_quant_config");
  if (by_type != nullptr && !by_type->empty()) {
    return UnsupportedQuantization("layer_type_quant_config is not handled");
  }
  OCTAVO_ASSIGN_OR_RETURN(const std::set<std::string> cached, ReadCacheGroup(config));
  modules.fp8_cache = !cached.empty();
  const ordered_json* layers = FindMember(config, "layer_quant_config");
  if ((layers == nullptr ? 0 : layers->size()) != cached.size()) {
    return UnsupportedQuantization(
        "layer_quant_config is handled for the patterns of export.kv_cache_group only");
  }
  for (const std::string& pattern : cached) {
    const ordered_json* layer = FindMember(*layers, pattern.c_str());
    if (layer == nullptr) {
      return BadQuantization(fmt::format("layer_quant_config lacks '{}'", pattern));
    }
    v1::Scheme own;
    OCTAVO_RETURN_IF_ERROR(ReadLayer(*layer, pattern, /*cached=*/true, &own));
    if (own.SerializeAsString() != scheme.SerializeAsString()) {
      return UnsupportedQuantization(
          fmt::format("'{}' is quantized otherwise than the other layers", pattern));
    }
  }
  return modules;
}

}  // namespace octavo
