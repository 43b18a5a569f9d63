#include "core/doctor/announcement.h"

#include <algorithm>
#include <array>

#include "core/checkpoint/quantization_json.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;

constexpr const char* kKey = "quantization_config";

Said Fp8(Grid grid, bool static_input) {
  return {.codes = DType::kF8E4M3, .grid = grid, .static_input = static_input};
}

// What Quark says of a layer's weight and inputs.
Said QuarkLayer(const ordered_json& layer, const std::string& key, Findings* findings) {
  Said said;
  const ordered_json* weight = FindMember(layer, "weight");
  const std::string dtype = weight == nullptr ? "" : TextMember(*weight, "dtype");
  if (dtype == "fp8_e4m3") said.codes = DType::kF8E4M3;
  if (dtype == "int8") said.codes = DType::kI8;
  if (said.codes == DType::kInvalid) {
    AddAnnounced(Symptom::kBits, key + ".weight", fmt::format("weights of dtype '{}'", dtype),
                 findings);
    return said;
  }
  const std::string scheme = TextMember(*weight, "qscheme");
  said.grid = scheme == "per_tensor"    ? Grid::kTensor
              : scheme == "per_channel" ? Grid::kChannel
                                        : Grid::kOther;
  if (said.grid == Grid::kOther) {
    AddAnnounced(Symptom::kStrategy, key + ".weight",
                 fmt::format("qscheme '{}' of weights", scheme), findings);
  }
  const ordered_json* input = FindMember(layer, "input_tensors");
  const ordered_json* dynamic = input == nullptr ? nullptr : FindMember(*input, "is_dynamic");
  said.static_input = input != nullptr && (dynamic == nullptr || *dynamic == false);
  if (said.codes == DType::kI8) {
    AddAnnounced(Symptom::kStaticInt8Inputs, key, "INT8 of this dialect", findings);
  }
  return said;
}

}  // namespace

void AddAnnounced(Symptom symptom, std::string_view key, std::string what, Findings* findings) {
  findings->push_back({.symptom = symptom,
                       .what = std::move(what),
                       .file = "config.json",
                       .key = key.empty() ? kKey : fmt::format("{}.{}", kKey, key)});
}

std::string_view Name(Dialect dialect) {
  constexpr std::array<std::string_view, 4> kNames = {"none", "compressed-tensors", "fp8", "quark"};
  return kNames[static_cast<size_t>(dialect)];
}

void Said::SetBlock(int64_t rows, int64_t columns) {
  const auto fits = [](int64_t size) { return size >= 1 && size <= kBlockMax; };
  block_rows = fits(rows) && fits(columns) ? rows : 0;
  block_columns = block_rows > 0 ? columns : 0;
}

bool Announcement::Keeps(std::string_view module) const {
  return kept.contains(module) ||
         std::any_of(kept_globs.begin(), kept_globs.end(),
                     [&](const std::string& glob) { return GlobMatches(glob, module); });
}

const Said* Announcement::Of(std::string_view module, bool eight_bits) const {
  if (groups.empty() || Keeps(module)) return nullptr;
  if (patterns && !eight_bits) return nullptr;
  const auto named = by_module.find(std::string(module));
  if (named != by_module.end()) return &groups[named->second];
  if (all_linear) return &groups[*all_linear];
  return patterns ? &groups.front() : nullptr;
}

void AnnounceKept(const ordered_json& config, const char* key, Announcement* out,
                  Findings* findings) {
  const ordered_json* list = FindMember(config, key);
  if (list == nullptr || !list->is_array()) return;
  for (const ordered_json& item : *list) {
    if (!item.is_string()) continue;
    const std::string text = item.get<std::string>();
    if (text.starts_with("re:")) {
      out->patterns = true;
      AddAnnounced(Symptom::kKeptByPattern, key, fmt::format("'{}' is a regular expression", text),
                   findings);
    } else if (out->dialect != Dialect::kCompressedTensors &&
               text.find_first_of("*?") != std::string::npos) {
      out->kept_globs.push_back(text);
      AddAnnounced(Symptom::kKeptByGlob, key, fmt::format("'{}' is a pattern with * or ?", text),
                   findings);
    } else {
      out->kept.insert(text);
    }
  }
}

void AnnounceFp8(const ordered_json& config, Announcement* out, Findings* findings) {
  out->layers_only = true;
  out->all_linear = 0;
  const std::string activation = TextMember(config, "activation_scheme");
  const bool blocks = FindMember(config, "weight_block_size") != nullptr;
  Said& said = out->groups.emplace_back(Fp8(Grid::kTensor, activation == "static"));
  if (!config.contains("activation_scheme")) {
    AddAnnounced(Symptom::kActivationMissing, "", "it has no activation_scheme", findings);
  } else if (activation != "static" && activation != "dynamic") {
    AddAnnounced(Symptom::kActivationNull, "activation_scheme", "it is neither static nor dynamic",
                 findings);
  }
  said.input_open = !config.contains("activation_scheme");
  const std::string code = TextMember(config, "fmt");
  if (!code.empty() && code != "e4m3") {
    AddAnnounced(Symptom::kFloatFormat, "fmt", fmt::format("'{}' where the codes are E4M3", code),
                 findings);
  }
  if (blocks) {
    const ordered_json& size = *FindMember(config, "weight_block_size");
    said.grid = Grid::kBlock;
    out->weight_scale = ".weight_scale_inv";
    const bool pair = size.is_array() && size.size() == 2 && size[0].is_number_integer() &&
                      size[1].is_number_integer();
    if (pair) said.SetBlock(size[0].get<int64_t>(), size[1].get<int64_t>());
    if (activation == "static") {
      said.static_input = false;  // said of the whole once, not of every input
      said.input_open = true;
      AddAnnounced(Symptom::kBlocksStatic, "activation_scheme", "static inputs under blocks",
                   findings);
    }
  } else {
    AddAnnounced(Symptom::kPerTensorFp8, "", "weights with one scale each, without blocks",
                 findings);
  }
  AnnounceKept(config, "ignored_layers", out, findings);
  AnnounceKept(config, "modules_to_not_convert", out, findings);
  out->cache = FindMember(config, "kv_cache_scheme") != nullptr;
  const ordered_json* exported = FindMember(config, "export");
  const std::string format = exported == nullptr ? "" : TextMember(*exported, "weight_format");
  if (!format.empty() && format != "real_quantized") {
    AddAnnounced(Symptom::kNotExported, "export.weight_format", fmt::format("'{}'", format),
                 findings);
  }
}

void AnnounceQuark(const ordered_json& config, Announcement* out, Findings* findings) {
  out->layers_only = true;
  AddAnnounced(Symptom::kMethodNotInTransformers, "quant_method",
               "transformers needs amd-quark for it", findings);
  for (const char* key : {"export", "global_quant_config", "exclude", "layer_type_quant_config"}) {
    if (FindMember(config, key) != nullptr) continue;
    const bool section = key[0] == 'g' || std::string_view(key) == "export";
    AddAnnounced(section ? Symptom::kQuarkSectionMissing : Symptom::kQuarkListMissing, key,
                 fmt::format("it has no {}", key), findings);
  }
  if (const ordered_json* global = FindMember(config, "global_quant_config")) {
    out->groups.push_back(QuarkLayer(*global, "global_quant_config", findings));
    out->all_linear = 0;
  }
  AnnounceKept(config, "exclude", out, findings);
  const ordered_json* exported = FindMember(config, "export");
  out->cache_known = exported != nullptr;
  if (exported == nullptr) return;
  const std::string format = TextMember(*exported, "weight_format");
  if (!format.empty() && format != "real_quantized") {
    AddAnnounced(Symptom::kNotExported, "export.weight_format", fmt::format("'{}'", format),
                 findings);
  }
  const ordered_json* cached = FindMember(*exported, "kv_cache_group");
  if (cached == nullptr || !cached->is_array() || cached->empty()) return;
  out->cache = true;
  const ordered_json* layers = FindMember(config, "layer_quant_config");
  for (const ordered_json& pattern : *cached) {
    if (!pattern.is_string() || layers == nullptr ||
        FindMember(*layers, pattern.get<std::string>().c_str()) == nullptr) {
      AddAnnounced(Symptom::kQuarkCacheGroup, "export.kv_cache_group",
                   fmt::format("{} is not in layer_quant_config", pattern.dump()), findings);
    }
  }
}

Announcement ReadAnnouncement(const ordered_json& config, Findings* findings) {
  Announcement out;
  const ordered_json* section = FindMember(config, kKey);
  if (section == nullptr) {
    section = FindMember(config, "compression_config");
    if (section == nullptr) return out;
    findings->push_back({.symptom = Symptom::kQuantizationOldKey,
                         .what = "compression_config is the old name of quantization_config",
                         .file = "config.json",
                         .key = "compression_config"});
  }
  out.present = true;
  const std::string method = TextMember(*section, "quant_method");
  if (method == "compressed-tensors") {
    out.dialect = Dialect::kCompressedTensors;
    AnnounceCompressedTensors(*section, &out, findings);
  } else if (method == "fp8") {
    out.dialect = Dialect::kFp8;
    AnnounceFp8(*section, &out, findings);
  } else if (method == "quark") {
    out.dialect = Dialect::kQuark;
    AnnounceQuark(*section, &out, findings);
  } else if (method.empty()) {
    AddAnnounced(Symptom::kMethodMissing, "", "it has no quant_method", findings);
  } else {
    AddAnnounced(Symptom::kMethodUnknown, "quant_method", fmt::format("'{}'", method), findings);
  }
  return out;
}

}  // namespace octavo
