#include "core/checkpoint/fp8_dialect.h"

#include "core/base/status.h"
#include "core/checkpoint/dialect.h"
#include "core/checkpoint/module_schemes.h"
#include "core/checkpoint/quantization_json.h"
#include "core/scheme/compat.h"
#include "fmt/format.h"

namespace octavo {

using nlohmann::ordered_json;

namespace {

constexpr int kBlock = 128;

void SetInput(v1::Granularity granularity, v1::NumericFormat* input) {
  input->set_type(v1::NUMERIC_FP8_E4M3);
  input->set_granularity(granularity);
  input->set_dynamic(granularity != v1::PER_TENSOR);
  if (granularity == v1::PER_GROUP) input->set_block_columns(kBlock);
}

// What the folder's one scheme is.
absl::Status ReadScheme(const ordered_json& config, v1::Scheme* scheme) {
  v1::NumericFormat* weight = scheme->mutable_weight();
  weight->set_type(v1::NUMERIC_FP8_E4M3);
  weight->set_granularity(v1::PER_TENSOR);
  const std::string code = TextMember(config, "fmt");
  if (!code.empty() && code != "e4m3") {
    return UnsupportedQuantization(fmt::format("fmt '{}' is not handled", code));
  }
  if (!config.contains("activation_scheme")) return BadQuantization("it lacks activation_scheme");
  const std::string activation = TextMember(config, "activation_scheme");
  if (activation == "dynamic") {
    SetInput(v1::PER_TOKEN, scheme->mutable_input());
  } else if (activation == "static") {
    SetInput(v1::PER_TENSOR, scheme->mutable_input());
  } else if (!config["activation_scheme"].is_null()) {  // null: Quark's word for no FP8 inputs
    return UnsupportedQuantization("activation_scheme is neither static nor dynamic");
  }
  const ordered_json* block = FindMember(config, "weight_block_size");
  if (block == nullptr) return absl::OkStatus();
  if (*block != ordered_json::array({kBlock, kBlock})) {
    return UnsupportedQuantization("weight_block_size is handled as [128, 128] only");
  }
  if (activation != "dynamic") {
    return UnsupportedQuantization("blocks are handled with activation_scheme dynamic only");
  }
  weight->set_granularity(v1::PER_BLOCK);
  weight->set_block_rows(kBlock);
  weight->set_block_columns(kBlock);
  SetInput(v1::PER_GROUP, scheme->mutable_input());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModuleSchemes> ReadFp8(const ordered_json& config) {
  ModuleSchemes modules;
  modules.all_linear = 0;
  modules.only_layers = true;
  modules.block_scale = ".weight_scale_inv";
  OCTAVO_RETURN_IF_ERROR(ReadScheme(config, &modules.schemes.emplace_back()));
  // AutoFP8's key holds names; Quark writes its globs there. The other key is that of transformers.
  for (const char* key : {"ignored_layers", "modules_to_not_convert"}) {
    OCTAVO_RETURN_IF_ERROR(ReadKept(config, key, /*globs=*/true, &modules));
  }
  if (const ordered_json* cache = FindMember(config, "kv_cache_scheme")) {
    if (*cache != "static") return UnsupportedQuantization("kv_cache_scheme is not static");
    modules.fp8_cache = true;
  }
  if (const ordered_json* exported = FindMember(config, "export")) {
    OCTAVO_RETURN_IF_ERROR(CheckExport(*exported));
  }
  return modules;
}

ordered_json Fp8Json(const v1::Recipe& recipe, const v1::ModelSpec&,
                     std::span<const v1::ModelTensor> tensors,
                     std::span<const TensorScheme> schemes) {
  const v1::Scheme* scheme = nullptr;  // one for all (CheckRecipe)
  bool fused = false;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (schemes[i].scheme != nullptr) scheme = schemes[i].scheme;
    fused = fused || tensors[i].role() == v1::FUSED_QKV;
  }
  const std::set<std::string> kept = KeptModules(tensors, schemes);
  ordered_json config;
  config["activation_scheme"] = scheme != nullptr && HasStaticInput(*scheme) ? "static" : "dynamic";
  config["ignored_layers"] = kept;
  if (recipe.has_kv_cache()) config["kv_cache_scheme"] = "static";
  config["quant_method"] = "fp8";
  if (scheme != nullptr && scheme->weight().granularity() == v1::PER_BLOCK) {
    // The key under which transformers looks for what it must leave alone.
    config["modules_to_not_convert"] = kept;
    config["weight_block_size"] = {scheme->weight().block_rows(), scheme->weight().block_columns()};
  }
  const CompatMode& mode = CompatModeOf(recipe.compat());
  if (mode.name.empty() ? recipe.has_kv_cache() : !mode.quark_version.empty()) {
    ordered_json& exported = config["export"];
    ordered_json& group = exported["kv_cache_group"] = ordered_json::array();
    if (recipe.has_kv_cache()) {
      group = fused ? ordered_json::array({"*Wqkv"}) : ordered_json::array({"*k_proj", "*v_proj"});
    }
    exported["min_kv_scale"] = 0.0;
    exported["pack_method"] = "reorder";
    exported["weight_format"] = "real_quantized";
    exported["weight_merge_groups"] = nullptr;
  }
  return config;
}

}  // namespace octavo
