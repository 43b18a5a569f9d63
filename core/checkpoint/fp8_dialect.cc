#include "core/checkpoint/fp8_dialect.h"

#include "core/checkpoint/dialect.h"

namespace octavo {

using nlohmann::ordered_json;

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
  if (recipe.has_kv_cache()) {
    ordered_json& exported = config["export"];
    exported["kv_cache_group"] =
        fused ? ordered_json::array({"*Wqkv"}) : ordered_json::array({"*k_proj", "*v_proj"});
    exported["min_kv_scale"] = 0.0;
    exported["pack_method"] = "reorder";
    exported["weight_format"] = "real_quantized";
    exported["weight_merge_groups"] = nullptr;
  }
  return config;
}

}  // namespace octavo
