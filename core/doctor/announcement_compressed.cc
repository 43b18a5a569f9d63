#include <algorithm>
#include <array>
#include <charconv>

#include "core/checkpoint/bitmask_storage.h"
#include "core/checkpoint/quantization_json.h"
#include "core/doctor/announcement.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;

// What compressed-tensors forbids any other key in.
constexpr std::array<std::string_view, 12> kArgs = {
    "num_bits", "type",     "symmetric", "group_size",  "strategy",        "block_structure",
    "dynamic",  "actorder", "observer",  "scale_dtype", "observer_kwargs", "zp_dtype"};

class GroupReader {
 public:
  GroupReader(std::string name, const ordered_json& json, Findings* findings)
      : name_(std::move(name)), json_(json), findings_(findings) {}

  Said Read() {
    if (const ordered_json* weights = FindMember(json_, "weights")) {
      ReadWeights(*weights);
    } else {
      Add(Symptom::kStrategy, "", "it has no weights");
    }
    if (const ordered_json* inputs = FindMember(json_, "input_activations")) {
      ReadInputs(*inputs);
    } else if (said_.codes == DType::kI8) {
      Add(Symptom::kInt8WeightOnly, "", "INT8 weights without INT8 inputs");
    }
    if (FindMember(json_, "output_activations") != nullptr) {
      Add(Symptom::kOutputsQuantized, "output_activations", "outputs are quantized");
    }
    return said_;
  }

 private:
  void Add(Symptom symptom, std::string_view key, std::string what) {
    std::string path = "quantization_config.config_groups." + name_;
    if (!key.empty()) path += fmt::format(".{}", key);
    findings_->push_back({.symptom = symptom,
                          .what = std::move(what),
                          .file = "config.json",
                          .key = std::move(path)});
  }

  void CheckKeys(const ordered_json& args, const std::string& where) {
    if (!args.is_object()) return;
    for (const auto& [key, value] : args.items()) {
      if (std::find(kArgs.begin(), kArgs.end(), key) == kArgs.end()) {
        Add(Symptom::kArgsUnknownKey, where + "." + key, fmt::format("unknown key '{}'", key));
      }
    }
  }

  static int64_t IntMember(const ordered_json& args, const char* key, int64_t otherwise) {
    const ordered_json* value = FindMember(args, key);
    return value != nullptr && value->is_number_integer() ? value->get<int64_t>() : otherwise;
  }

  static bool IsFalse(const ordered_json& args, const char* key) {
    const ordered_json* value = FindMember(args, key);
    return value != nullptr && *value == false;
  }

  static bool IsTrue(const ordered_json& args, const char* key) {
    const ordered_json* value = FindMember(args, key);
    return value != nullptr && *value == true;
  }

  // What is not said follows from group_size.
  static std::string StrategyOf(const ordered_json& args) {
    const std::string strategy = TextMember(args, "strategy");
    if (!strategy.empty()) return strategy;
    const int64_t size = IntMember(args, "group_size", 0);
    return size == 0 ? "tensor" : size == -1 ? "channel" : "group";
  }

  void ReadBlock(const ordered_json& args) {
    const ordered_json* block = FindMember(args, "block_structure");
    if (block != nullptr && block->is_array() && block->size() == 2 &&
        (*block)[0].is_number_integer() && (*block)[1].is_number_integer()) {
      said_.SetBlock((*block)[0].get<int64_t>(), (*block)[1].get<int64_t>());
    } else if (block != nullptr && block->is_string()) {  // "128x128" in old files
      const std::string text = block->get<std::string>();
      const char* end = text.data() + text.size();
      int64_t rows = 0, columns = 0;
      const auto first = std::from_chars(text.data(), end, rows);
      if (first.ptr != end) std::from_chars(first.ptr + 1, end, columns);
      said_.SetBlock(rows, columns);
    }
  }

  void ReadWeights(const ordered_json& args) {
    CheckKeys(args, "weights");
    const std::string type = TextMember(args, "type");
    if (IntMember(args, "num_bits", 0) == 8) {
      said_.codes = type == "float" ? DType::kF8E4M3 : DType::kI8;
    } else {
      Add(Symptom::kBits, "weights.num_bits",
          fmt::format("{} bits", IntMember(args, "num_bits", 0)));
    }
    const std::string strategy = StrategyOf(args);
    said_.grid = strategy == "tensor"    ? Grid::kTensor
                 : strategy == "channel" ? Grid::kChannel
                 : strategy == "block"   ? Grid::kBlock
                                         : Grid::kOther;
    if (said_.grid == Grid::kBlock) ReadBlock(args);
    if (said_.grid == Grid::kOther || IsTrue(args, "dynamic")) {
      Add(Symptom::kStrategy, "weights.strategy",
          fmt::format("weights with strategy '{}'{}", strategy,
                      IsTrue(args, "dynamic") ? ", dynamic" : ""));
    }
    if (IsFalse(args, "symmetric")) {
      said_.asymmetric = true;
      Add(Symptom::kAsymmetricWeights, "weights.symmetric", "weights with zero points");
    }
    const std::string order = TextMember(args, "actorder");
    if (order == "group" || order == "dynamic") {
      Add(Symptom::kActorder, "weights.actorder", fmt::format("'{}'", order));
    }
  }

  void ReadInputs(const ordered_json& args) {
    CheckKeys(args, "input_activations");
    const bool dynamic = IsTrue(args, "dynamic");
    const std::string strategy = StrategyOf(args);
    said_.static_input = !dynamic;
    if (strategy == "group") said_.input_group = IntMember(args, "group_size", 0);
    if (IsFalse(args, "symmetric")) {
      Add(Symptom::kAsymmetricInputs, "input_activations.symmetric", "inputs with zero points");
    }
    if (!dynamic && said_.codes == DType::kI8) {
      Add(Symptom::kStaticInt8Inputs, "input_activations", "static INT8 inputs");
    } else if (!dynamic && strategy != "tensor") {
      Add(Symptom::kStrategy, "input_activations", "static inputs with more than one scale");
    } else if (dynamic && strategy == "tensor") {
      Add(Symptom::kInputsPerTensor, "input_activations.strategy",
          "one scale for all tokens of a batch");
    }
  }

  std::string name_;
  const ordered_json& json_;
  Findings* findings_;
  Said said_;
};

void CheckFormat(const ordered_json& config, Announcement* out, Findings* findings) {
  const std::string format = TextMember(config, "format");
  for (const std::string_view known :
       {"float-quantized", "int-quantized", "naive-quantized", "mixed-precision"}) {
    if (format == known) return;
  }
  if (format == "pack-quantized") {
    out->packed = true;
  } else {
    AddAnnounced(format == "dense" ? Symptom::kFormatDense : Symptom::kFormatUnknown, "format",
                 fmt::format("'{}'", format), findings);
  }
}

void CheckSections(const ordered_json& config, Announcement* out, Findings* findings) {
  // Without a word the status counts as "initialized".
  const std::string status = TextMember(config, "quantization_status");
  if (status != "compressed") {
    AddAnnounced(status.empty() ? Symptom::kStatusMissing : Symptom::kStatusOpen,
                 "quantization_status", fmt::format("'{}'", status), findings);
  }
  const ordered_json* sparsity = FindMember(config, "sparsity_config");
  if (sparsity == nullptr || sparsity->empty()) return;
  const std::string format = TextMember(*sparsity, "format");
  out->bitmasks = format == kBitmaskFormat;  // what it means depends on the weights
  if (out->bitmasks) return;
  AddAnnounced(format == "dense" ? Symptom::kSparsityDense : Symptom::kSparsity, "sparsity_config",
               fmt::format("format '{}'", format), findings);
}

void CheckCache(const ordered_json& config, Announcement* out, Findings* findings) {
  const ordered_json* cache = FindMember(config, "kv_cache_scheme");
  if (cache == nullptr) return;
  const std::string strategy = TextMember(*cache, "strategy");
  const ordered_json* symmetric = FindMember(*cache, "symmetric");
  const ordered_json* bits = FindMember(*cache, "num_bits");
  out->cache = true;
  if (TextMember(*cache, "type") != "float" || bits == nullptr || *bits != 8 ||
      strategy != "tensor" || (symmetric != nullptr && *symmetric == false)) {
    AddAnnounced(Symptom::kCacheScheme, "kv_cache_scheme",
                 fmt::format("type '{}', strategy '{}'", TextMember(*cache, "type"), strategy),
                 findings);
  }
}

void ReadTargets(const ordered_json& group, size_t index, Announcement* out, Findings* findings) {
  const ordered_json* targets = FindMember(group, "targets");
  if (targets == nullptr || !targets->is_array()) return;
  for (const ordered_json& target : *targets) {
    if (!target.is_string()) continue;
    const std::string text = target.get<std::string>();
    if (text == "Linear") {
      out->all_linear = index;
    } else if (text.starts_with("re:")) {
      out->patterns = true;
      AddAnnounced(Symptom::kTargetPattern, "config_groups",
                   fmt::format("the target '{}' is a regular expression", text), findings);
    } else {
      out->by_module.try_emplace(text, index);
    }
  }
}

}  // namespace

void AnnounceCompressedTensors(const ordered_json& config, Announcement* out, Findings* findings) {
  CheckFormat(config, out, findings);
  CheckSections(config, out, findings);
  CheckCache(config, out, findings);
  AnnounceKept(config, "ignore", out, findings);
  const ordered_json* groups = FindMember(config, "config_groups");
  if (groups == nullptr || !groups->is_object()) {
    AddAnnounced(Symptom::kGroupsMissing, "config_groups", "it has no config_groups", findings);
    return;
  }
  for (const auto& [name, json] : groups->items()) {
    Said& said = out->groups.emplace_back(GroupReader(name, json, findings).Read());
    said.group = out->groups.size() - 1;
    ReadTargets(json, said.group, out, findings);
  }
}

}  // namespace octavo
