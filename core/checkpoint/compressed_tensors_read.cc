#include <charconv>
#include <optional>
#include <string>
#include <utility>

#include "core/base/status.h"
#include "core/checkpoint/bitmask_storage.h"
#include "core/checkpoint/module_schemes.h"
#include "core/checkpoint/quantization_json.h"
#include "core/scheme/legality.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;

std::optional<int> IntOf(const ordered_json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  const auto number = value.get<int64_t>();
  if (number < -1 || number > (1 << 20)) return std::nullopt;
  return static_cast<int>(number);
}

// [128, 128], or "128x128" in old files.
std::optional<std::pair<int, int>> BlockOf(const ordered_json& value) {
  if (value.is_array() && value.size() == 2) {
    const auto rows = IntOf(value[0]);
    const auto columns = IntOf(value[1]);
    if (rows && columns) return std::pair(*rows, *columns);
  }
  if (value.is_string()) {
    const std::string text = value.get<std::string>();
    const char* end = text.data() + text.size();
    int rows = 0;
    int columns = 0;
    const auto first = std::from_chars(text.data(), end, rows);
    if (first.ec == std::errc() && first.ptr != end && *first.ptr == 'x' &&
        std::from_chars(first.ptr + 1, end, columns).ptr == end) {
      return std::pair(rows, columns);
    }
  }
  return std::nullopt;
}

absl::Status ReadStrategy(const ordered_json& args, std::string_view what,
                          v1::NumericFormat* format) {
  std::string strategy = TextMember(args, "strategy");
  const ordered_json* group_size = FindMember(args, "group_size");
  const int size = group_size != nullptr ? IntOf(*group_size).value_or(0) : 0;
  if (strategy.empty()) strategy = size == 0 ? "tensor" : size == -1 ? "channel" : "group";
  if (strategy == "tensor") {
    format->set_granularity(v1::PER_TENSOR);
  } else if (strategy == "channel") {
    format->set_granularity(v1::PER_CHANNEL);
  } else if (strategy == "token") {
    format->set_granularity(v1::PER_TOKEN);
  } else if (strategy == "group" && size > 0) {
    format->set_granularity(v1::PER_GROUP);
    format->set_block_columns(size);
  } else if (strategy == "block") {
    const ordered_json* block = FindMember(args, "block_structure");
    const auto sizes = block != nullptr ? BlockOf(*block) : std::nullopt;
    if (!sizes)
      return BadQuantization(fmt::format("{}: strategy block lacks its block_structure", what));
    format->set_granularity(v1::PER_BLOCK);
    format->set_block_rows(sizes->first);
    format->set_block_columns(sizes->second);
  } else {
    return UnsupportedQuantization(fmt::format("{}: strategy '{}' is not handled", what, strategy));
  }
  return absl::OkStatus();
}

absl::Status ReadArgs(const ordered_json& args, std::string_view what, v1::NumericFormat* format) {
  if (!args.is_object()) return BadQuantization(fmt::format("{} is not an object", what));
  const ordered_json* bits = FindMember(args, "num_bits");
  if (bits == nullptr || IntOf(*bits).value_or(0) != 8) {
    return UnsupportedQuantization(fmt::format("{}: only num_bits 8 is handled", what));
  }
  const std::string type = TextMember(args, "type");
  if (type == "float") {
    format->set_type(v1::NUMERIC_FP8_E4M3);
  } else if (type == "int") {
    format->set_type(v1::NUMERIC_INT8);
  } else {
    return UnsupportedQuantization(fmt::format("{}: type '{}' is not handled", what, type));
  }
  const ordered_json* symmetric = FindMember(args, "symmetric");
  if (symmetric != nullptr && *symmetric != true) {
    return UnsupportedQuantization(fmt::format("{}: asymmetric numbers are not handled", what));
  }
  const ordered_json* dynamic = FindMember(args, "dynamic");
  if (dynamic != nullptr && !dynamic->is_boolean()) {
    return UnsupportedQuantization(fmt::format("{}: dynamic is neither true nor false", what));
  }
  format->set_dynamic(dynamic != nullptr && *dynamic == true);
  return ReadStrategy(args, what, format);
}

// A scale found by calibration: FP8, one for the whole tensor.
absl::Status CheckStatic(const v1::NumericFormat& format, std::string_view what) {
  if (format.type() == v1::NUMERIC_FP8_E4M3 && format.granularity() == v1::PER_TENSOR) {
    return absl::OkStatus();
  }
  return UnsupportedQuantization(
      fmt::format("{}: static scales are handled for type float, strategy tensor only", what));
}

// The table of legal schemes is of what is written; static inputs are read under both granularities
// of an FP8 weight.
absl::Status CheckScheme(const v1::Scheme& scheme, const std::string& group) {
  const v1::NumericFormat& weight = scheme.weight();
  if (weight.dynamic()) return UnsupportedQuantization("dynamic weight scales are not handled");
  if (scheme.has_input() && !scheme.input().dynamic()) {
    OCTAVO_RETURN_IF_ERROR(CheckStatic(scheme.input(), group));
    if (weight.type() == v1::NUMERIC_FP8_E4M3 &&
        (weight.granularity() == v1::PER_TENSOR || weight.granularity() == v1::PER_CHANNEL)) {
      return absl::OkStatus();
    }
    return UnsupportedQuantization(
        fmt::format("{}: static inputs are handled under FP8 weights only, with a "
                    "scale per tensor or channel",
                    group));
  }
  const absl::Status legal =
      CheckLegal(scheme, v1::ABSMAX, "compressed-tensors", Home::kDense, group);
  return legal.ok() ? legal : UnsupportedQuantization(std::string(legal.message()));
}

absl::Status CheckStorage(const std::string& format) {
  for (const std::string_view known :
       {"float-quantized", "int-quantized", "naive-quantized", "mixed-precision"}) {
    if (format == known) return absl::OkStatus();
  }
  return UnsupportedQuantization(fmt::format("format '{}' is not handled", format));
}

absl::Status ReadGroup(const std::string& name, const ordered_json& json, ModuleSchemes* groups) {
  if (!json.is_object()) return BadQuantization(fmt::format("{} is not an object", name));
  v1::Scheme scheme;
  const ordered_json* weights = FindMember(json, "weights");
  if (weights == nullptr) return UnsupportedQuantization(fmt::format("{} has no weights", name));
  OCTAVO_RETURN_IF_ERROR(ReadArgs(*weights, "weights", scheme.mutable_weight()));
  if (const ordered_json* input = FindMember(json, "input_activations")) {
    OCTAVO_RETURN_IF_ERROR(ReadArgs(*input, "input_activations", scheme.mutable_input()));
  }
  if (FindMember(json, "output_activations") != nullptr) {
    return UnsupportedQuantization(fmt::format("{} quantizes outputs", name));
  }
  const std::string format = TextMember(json, "format");
  if (!format.empty()) OCTAVO_RETURN_IF_ERROR(CheckStorage(format));
  OCTAVO_RETURN_IF_ERROR(CheckScheme(scheme, name));
  const size_t index = groups->schemes.size();
  groups->schemes.push_back(scheme);
  const ordered_json* targets = FindMember(json, "targets");
  if (targets == nullptr || !targets->is_array())
    return BadQuantization(fmt::format("{} lacks targets", name));
  for (const ordered_json& target : *targets) {
    if (!target.is_string()) return BadQuantization(fmt::format("{}: a target is not text", name));
    const std::string text = target.get<std::string>();
    if (text.starts_with("re:"))
      return UnsupportedQuantization(fmt::format("target '{}' is a pattern", text));
    const bool added = text == "Linear" ? !std::exchange(groups->all_linear, index).has_value()
                                        : groups->by_module.try_emplace(text, index).second;
    if (!added) return BadQuantization(fmt::format("target '{}' appears twice", text));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModuleSchemes> ReadCompressedTensors(const ordered_json& config) {
  if (!config.is_object()) return BadQuantization("it is not an object");
  const std::string status = TextMember(config, "quantization_status");
  if (!status.empty() && status != "compressed") {
    return UnsupportedQuantization(
        fmt::format("quantization_status '{}': weights are not compressed", status));
  }
  const ordered_json* sparsity = FindMember(config, "sparsity_config");
  if (sparsity != nullptr && !sparsity->empty()) {
    const std::string format = TextMember(*sparsity, "format");
    if (format != "dense" && format != kBitmaskFormat) {
      return UnsupportedQuantization(
          fmt::format("sparsity_config: format '{}' is not handled", format));
    }
  }
  OCTAVO_RETURN_IF_ERROR(CheckStorage(TextMember(config, "format")));
  ModuleSchemes groups;
  OCTAVO_RETURN_IF_ERROR(ReadKept(config, "ignore", /*globs=*/false, &groups));
  const ordered_json* config_groups = FindMember(config, "config_groups");
  if (config_groups == nullptr || !config_groups->is_object())
    return BadQuantization("it has no config_groups");
  for (const auto& [name, json] : config_groups->items()) {
    OCTAVO_RETURN_IF_ERROR(ReadGroup(name, json, &groups));
  }
  if (const ordered_json* cache = FindMember(config, "kv_cache_scheme")) {
    v1::NumericFormat format;
    OCTAVO_RETURN_IF_ERROR(ReadArgs(*cache, "kv_cache_scheme", &format));
    if (format.dynamic())
      return UnsupportedQuantization("kv_cache_scheme: dynamic scales are not handled");
    OCTAVO_RETURN_IF_ERROR(CheckStatic(format, "kv_cache_scheme"));
    groups.fp8_cache = true;
  }
  return groups;
}

}  // namespace octavo
