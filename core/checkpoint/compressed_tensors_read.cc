#include <charconv>
#include <map>
#include <optional>
#include <set>

#include "absl/container/flat_hash_map.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/dialect.h"
#include "core/scheme/legality.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;

constexpr char kFile[] = "config.json";

absl::Status Bad(std::string_view what) {
  return MakeError(Reason::kBadCheckpoint, fmt::format("quantization_config: {}", what),
                   {.file = kFile});
}

absl::Status Unsupported(std::string_view what) {
  return MakeError(Reason::kUnsupported, fmt::format("quantization_config: {}", what),
                   {.file = kFile}, "Octavo serves what `octavo quantize` writes");
}

absl::Status BadTensor(const v1::TensorSpec& spec, std::string_view what, std::string_view cure) {
  return MakeError(Reason::kBadCheckpoint, what, {.file = spec.file(), .tensor = spec.name()},
                   cure);
}

// A member, or nullptr where it is absent or null.
const ordered_json* Find(const ordered_json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string TextOf(const ordered_json& object, const char* key) {
  const ordered_json* value = Find(object, key);
  return value != nullptr && value->is_string() ? value->get<std::string>() : "";
}

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
  std::string strategy = TextOf(args, "strategy");
  const ordered_json* group_size = Find(args, "group_size");
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
    const ordered_json* block = Find(args, "block_structure");
    const auto sizes = block != nullptr ? BlockOf(*block) : std::nullopt;
    if (!sizes) return Bad(fmt::format("{}: strategy block lacks its block_structure", what));
    format->set_granularity(v1::PER_BLOCK);
    format->set_block_rows(sizes->first);
    format->set_block_columns(sizes->second);
  } else {
    return Unsupported(fmt::format("{}: strategy '{}' is not handled", what, strategy));
  }
  return absl::OkStatus();
}

absl::Status ReadArgs(const ordered_json& args, bool is_input, v1::NumericFormat* format) {
  const std::string_view what = is_input ? "input_activations" : "weights";
  if (!args.is_object()) return Bad(fmt::format("{} is not an object", what));
  const ordered_json* bits = Find(args, "num_bits");
  if (bits == nullptr || IntOf(*bits).value_or(0) != 8) {
    return Unsupported(fmt::format("{}: only num_bits 8 is handled", what));
  }
  const std::string type = TextOf(args, "type");
  if (type == "float") {
    format->set_type(v1::NUMERIC_FP8_E4M3);
  } else if (type == "int") {
    format->set_type(v1::NUMERIC_INT8);
  } else {
    return Unsupported(fmt::format("{}: type '{}' is not handled", what, type));
  }
  const ordered_json* symmetric = Find(args, "symmetric");
  if (symmetric != nullptr && *symmetric != true) {
    return Unsupported(fmt::format("{}: asymmetric numbers are not handled", what));
  }
  const ordered_json* dynamic = Find(args, "dynamic");
  format->set_dynamic(dynamic != nullptr && *dynamic == true);
  if (format->dynamic() != is_input) {
    return Unsupported(is_input ? "static input scales are not handled"
                                : "dynamic weight scales are not handled");
  }
  return ReadStrategy(args, what, format);
}

// What quantization_config says, ready to be asked for a module.
struct Groups {
  std::vector<v1::Scheme> schemes;
  absl::flat_hash_map<std::string, size_t> by_module;
  std::optional<size_t> all_linear;
  std::set<std::string, std::less<>> ignored;

  const v1::Scheme* SchemeOf(std::string_view module) const {
    if (ignored.contains(module)) return nullptr;
    const auto found = by_module.find(std::string(module));
    if (found != by_module.end()) return &schemes[found->second];
    return all_linear ? &schemes[*all_linear] : nullptr;
  }
};

absl::Status CheckStorage(const std::string& format) {
  for (const std::string_view known :
       {"float-quantized", "int-quantized", "naive-quantized", "mixed-precision"}) {
    if (format == known) return absl::OkStatus();
  }
  return Unsupported(fmt::format("format '{}' is not handled", format));
}

absl::Status ReadGroup(const std::string& name, const ordered_json& json, Groups* groups) {
  if (!json.is_object()) return Bad(fmt::format("{} is not an object", name));
  v1::Scheme scheme;
  const ordered_json* weights = Find(json, "weights");
  if (weights == nullptr) return Unsupported(fmt::format("{} has no weights", name));
  OCTAVO_RETURN_IF_ERROR(ReadArgs(*weights, /*is_input=*/false, scheme.mutable_weight()));
  if (const ordered_json* input = Find(json, "input_activations")) {
    OCTAVO_RETURN_IF_ERROR(ReadArgs(*input, /*is_input=*/true, scheme.mutable_input()));
  }
  if (Find(json, "output_activations") != nullptr) {
    return Unsupported(fmt::format("{} quantizes outputs", name));
  }
  const std::string format = TextOf(json, "format");
  if (!format.empty()) OCTAVO_RETURN_IF_ERROR(CheckStorage(format));
  if (absl::Status legal = CheckLegal(scheme, v1::ABSMAX, "compressed-tensors", Home::kDense, name);
      !legal.ok()) {
    return Unsupported(std::string(legal.message()));
  }
  const size_t index = groups->schemes.size();
  groups->schemes.push_back(scheme);
  const ordered_json* targets = Find(json, "targets");
  if (targets == nullptr || !targets->is_array()) return Bad(fmt::format("{} lacks targets", name));
  for (const ordered_json& target : *targets) {
    if (!target.is_string()) return Bad(fmt::format("{}: a target is not text", name));
    const std::string text = target.get<std::string>();
    if (text.starts_with("re:")) return Unsupported(fmt::format("target '{}' is a pattern", text));
    const bool added = text == "Linear" ? !std::exchange(groups->all_linear, index).has_value()
                                        : groups->by_module.try_emplace(text, index).second;
    if (!added) return Bad(fmt::format("target '{}' appears twice", text));
  }
  return absl::OkStatus();
}

absl::StatusOr<Groups> ReadGroups(const ordered_json& config) {
  if (!config.is_object()) return Bad("it is not an object");
  const std::string method = TextOf(config, "quant_method");
  if (method != "compressed-tensors") {
    return Unsupported(fmt::format("quant_method '{}' is not handled", method));
  }
  const std::string status = TextOf(config, "quantization_status");
  if (!status.empty() && status != "compressed") {
    return Unsupported(fmt::format("quantization_status '{}': weights are not compressed", status));
  }
  const ordered_json* sparsity = Find(config, "sparsity_config");
  if (sparsity != nullptr && !sparsity->empty() && TextOf(*sparsity, "format") != "dense") {
    return Unsupported("sparse storage is not handled");
  }
  OCTAVO_RETURN_IF_ERROR(CheckStorage(TextOf(config, "format")));
  Groups groups;
  if (const ordered_json* ignore = Find(config, "ignore")) {
    if (!ignore->is_array()) return Bad("ignore is not a list");
    for (const ordered_json& item : *ignore) {
      if (!item.is_string()) return Bad("an item of ignore is not text");
      const std::string text = item.get<std::string>();
      if (text.starts_with("re:"))
        return Unsupported(fmt::format("ignore '{}' is a pattern", text));
      groups.ignored.insert(text);
    }
  }
  const ordered_json* config_groups = Find(config, "config_groups");
  if (config_groups == nullptr || !config_groups->is_object())
    return Bad("it has no config_groups");
  for (const auto& [name, json] : config_groups->items()) {
    OCTAVO_RETURN_IF_ERROR(ReadGroup(name, json, &groups));
  }
  return groups;
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
  if (!IsSourceFloat(FromProto(scale->dtype()))) {
    return BadTensor(*scale, fmt::format("a scale of dtype {}", Name(FromProto(scale->dtype()))),
                     "Scales are F32, F16 or BF16");
  }
  if (!ShapeFits(scheme.weight(), weight, *scale)) {
    return BadTensor(*scale,
                     fmt::format("its shape [{}] does not fit {} of a [{}] weight",
                                 fmt::join(scale->shape(), ", "), SchemeText(scheme),
                                 fmt::join(weight.shape(), ", ")),
                     "Quantize the model again");
  }
  return absl::OkStatus();
}

bool IsKvScale(std::string_view name) {
  return name.ends_with(".k_scale") || name.ends_with(".v_scale");
}

}  // namespace

absl::StatusOr<std::vector<TensorQuantization>> ReadQuantization(
    const ordered_json& config, std::span<const v1::ModelTensor> tensors) {
  Groups groups;
  const ordered_json* section = config.is_object() ? Find(config, "quantization_config") : nullptr;
  if (section != nullptr) {
    OCTAVO_ASSIGN_OR_RETURN(groups, ReadGroups(*section));
  }
  const bool has_kv_scales = section != nullptr && Find(*section, "kv_cache_scheme") != nullptr;

  std::vector<TensorQuantization> result(tensors.size());
  absl::flat_hash_map<std::string, size_t> scales;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!IsScaleName(tensors[i].spec().name())) continue;
    result[i].is_scale = true;
    scales.emplace(tensors[i].spec().name(), i);
  }
  std::set<size_t> used;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const v1::ModelTensor& tensor = tensors[i];
    const bool linear =
        IsQuantizable(tensor.role()) || tensor.role() == v1::LM_HEAD || tensor.role() == v1::ROUTER;
    if (result[i].is_scale || tensor.role() == v1::IGNORED) continue;
    // A stack is no module of its own: what targets "Linear" does not mean it.
    if (IsStack(tensor.role()) && IsSourceFloat(FromProto(tensor.spec().dtype()))) continue;
    const std::string_view module = ModuleName(tensor.spec().name());
    const v1::Scheme* scheme = linear ? groups.SchemeOf(module) : nullptr;
    if (scheme == nullptr) {
      if (IsSourceFloat(FromProto(tensor.spec().dtype()))) continue;
      return BadTensor(tensor.spec(),
                       fmt::format("dtype {}, but config.json does not say that it is quantized",
                                   Name(FromProto(tensor.spec().dtype()))),
                       "Restore quantization_config, or quantize the model again");
    }
    const auto scale = scales.find(std::string(module) + ".weight_scale");
    const v1::TensorSpec* spec = scale == scales.end() ? nullptr : &tensors[scale->second].spec();
    OCTAVO_RETURN_IF_ERROR(CheckPair(*scheme, tensor.spec(), spec));
    used.insert(scale->second);
    result[i].quantized = true;
    result[i].scheme = *scheme;
    result[i].scale = *spec;
  }
  for (const auto& [name, index] : scales) {
    if (used.contains(index) || (has_kv_scales && IsKvScale(name))) continue;
    return BadTensor(tensors[index].spec(), "a scale that belongs to no quantized weight",
                     "Static, asymmetric and foreign scales are not handled");
  }
  return result;
}

}  // namespace octavo
