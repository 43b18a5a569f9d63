#include "core/checkpoint/compressed_tensors.h"

#include <map>
#include <optional>
#include <set>

#include "core/checkpoint/bitmask_storage.h"
#include "core/checkpoint/dialect.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;

// The version of the format that we write; readers show it and decide nothing by it.
constexpr char kFormatVersion[] = "0.14.0";

// How a scale was found, in the words of the format.
std::string WeightObserver(v1::Algorithm algorithm) {
  return algorithm == v1::MSE ? "mse" : "minmax";
}
std::string StaticObserver(v1::Observer observer) {
  const bool absmax = observer == v1::OBSERVER_ABSMAX || observer == v1::OBSERVER_UNSPECIFIED;
  return absmax ? "minmax" : ObserverName(observer);
}

// `observer` is said of static scales only: readers demand that a dynamic one has none.
ordered_json ArgsJson(const v1::NumericFormat& format, const std::string& observer) {
  ordered_json args;
  args["num_bits"] = 8;
  args["type"] = format.type() == v1::NUMERIC_INT8 ? "int" : "float";
  args["symmetric"] = true;
  args["group_size"] = nullptr;
  args["block_structure"] = nullptr;
  switch (format.granularity()) {
    case v1::PER_TENSOR:
      args["strategy"] = "tensor";
      break;
    case v1::PER_CHANNEL:
      args["strategy"] = "channel";
      break;
    case v1::PER_BLOCK:
      args["strategy"] = "block";
      args["block_structure"] = {format.block_rows(), format.block_columns()};
      break;
    case v1::PER_TOKEN:
      args["strategy"] = "token";
      break;
    default:
      args["strategy"] = "group";
      args["group_size"] = format.block_columns();
  }
  args["dynamic"] = format.dynamic();
  args["actorder"] = nullptr;
  args["observer"] = nullptr;
  if (!format.dynamic()) args["observer"] = observer;
  args["observer_kwargs"] = ordered_json::object();
  return args;
}

// Weight-only float is "naive" by the format's own inference; the storage is the same for all
// three.
std::string_view StorageFormat(const v1::Scheme& scheme) {
  if (scheme.weight().type() == v1::NUMERIC_INT8) return "int-quantized";
  return scheme.has_input() ? "float-quantized" : "naive-quantized";
}

bool IsExpert(v1::TensorRole role) {
  return role == v1::EXPERT_GATE || role == v1::EXPERT_UP || role == v1::EXPERT_DOWN;
}

struct Group {
  const v1::Scheme* scheme = nullptr;
  v1::Algorithm algorithm = v1::ABSMAX;
  std::vector<std::string> modules;
  bool experts = false;  // modules of experts are among them
  std::string head;      // the output head's module, if it is one of them
};

}  // namespace

ordered_json CompressedTensorsJson(const v1::Recipe& recipe, const v1::ModelSpec&,
                                   std::span<const v1::ModelTensor> tensors,
                                   std::span<const TensorScheme> schemes) {
  std::vector<Group> groups;
  std::map<std::string, size_t> group_of;  // by scheme and algorithm
  std::optional<size_t> of_experts;        // all of them, however their scales were found
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (schemes[i].scheme == nullptr) continue;
    const bool expert = IsExpert(tensors[i].role());
    const std::string key =
        schemes[i].scheme->SerializeAsString() + static_cast<char>('0' + schemes[i].algorithm);
    size_t index = groups.size();
    if (expert && of_experts) {
      index = *of_experts;
    } else if (const auto [entry, inserted] = group_of.try_emplace(key, index); inserted) {
      groups.push_back({schemes[i].scheme, schemes[i].algorithm, {}, false, {}});
    } else {
      index = entry->second;
    }
    groups[index].modules.emplace_back(ModuleName(tensors[i].spec().name()));
    if (tensors[i].role() == v1::LM_HEAD) groups[index].head = groups[index].modules.back();
    if (!expert) continue;
    groups[index].experts = true;
    of_experts = index;
  }

  const std::string observer = StaticObserver(recipe.calibration().observer());
  ordered_json config_groups = ordered_json::object();
  std::set<std::string_view> formats;
  for (const Group& group : groups) formats.insert(StorageFormat(*group.scheme));
  for (size_t g = 0; g < groups.size(); ++g) {
    const Group& group = groups[g];
    ordered_json& json = config_groups["group_" + std::to_string(g)];
    // A class name beside exact names is read in different orders by different readers: with
    // several groups every module is named. Experts are looked up under "Linear" only.
    if (groups.size() == 1 || group.experts) {
      json["targets"] = {"Linear"};
      // vLLM's head is no Linear: it looks for the name.
      if (!group.head.empty()) json["targets"].push_back(group.head);
    } else {
      json["targets"] = group.modules;
    }
    json["weights"] = ArgsJson(group.scheme->weight(), WeightObserver(group.algorithm));
    json["input_activations"] = nullptr;
    if (group.scheme->has_input()) {
      json["input_activations"] = ArgsJson(group.scheme->input(), observer);
    }
    json["output_activations"] = nullptr;
    if (formats.size() > 1) json["format"] = StorageFormat(*group.scheme);
  }

  ordered_json config;
  config["config_groups"] = std::move(config_groups);
  config["format"] = formats.size() == 1 ? *formats.begin() : "mixed-precision";
  config["global_compression_ratio"] = nullptr;
  config["ignore"] = KeptModules(tensors, schemes);
  config["kv_cache_scheme"] = nullptr;
  if (recipe.has_kv_cache()) config["kv_cache_scheme"] = ArgsJson(recipe.kv_cache(), observer);
  config["quant_method"] = "compressed-tensors";
  config["quantization_status"] = "compressed";
  if (recipe.storage() == v1::STORAGE_SPARSE_24_BITMASK) {
    config["sparsity_config"] = SparsityConfigJson(config["ignore"]);
  }
  config["version"] = kFormatVersion;
  return config;
}

}  // namespace octavo
