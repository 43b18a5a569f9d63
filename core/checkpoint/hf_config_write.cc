#include <utility>

#include "core/base/status.h"
#include "core/checkpoint/config_json.h"
#include "core/checkpoint/hf_config.h"
#include "core/model/family.h"
#include "core/tensor/dtype_proto.h"

namespace octavo {
namespace {

using Json = nlohmann::ordered_json;

void Put(Json& root, std::string_view path, Json value) {
  if (path.empty()) return;
  Json* at = &root;
  for (size_t slash; (slash = path.find('/')) != std::string_view::npos;) {
    at = &(*at)[std::string(path.substr(0, slash))];
    path.remove_prefix(slash + 1);
  }
  (*at)[std::string(path)] = std::move(value);
}

Json EndIds(const v1::ModelSpec& spec) {
  if (spec.eos_token_ids_size() == 0) return nullptr;
  if (spec.eos_token_ids_size() == 1) return spec.eos_token_ids(0);
  Json list = Json::array();
  for (int32_t id : spec.eos_token_ids()) list.push_back(id);
  return list;
}

Json BeginId(const v1::ModelSpec& spec) {
  return spec.bos_token_id() < 0 ? Json(nullptr) : Json(spec.bos_token_id());
}

}  // namespace

std::string_view TorchName(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    case DType::kF32:
      return "float32";
    default:
      return "";
  }
}

std::string ConfigText(const v1::ModelSpec& spec) {
  const Family* family = FamilyByName(spec.family());
  OCTAVO_CHECK(family != nullptr);
  const ConfigKeys& keys = family->keys;
  Json root;
  root["architectures"] = Json::array({std::string(family->architecture)});
  Put(root, keys.attention_bias, spec.attention_bias());
  root["bos_token_id"] = BeginId(spec);
  root["eos_token_id"] = EndIds(spec);
  Put(root, keys.head_dim, spec.head_dim());
  Put(root, keys.act, spec.act().empty() ? "silu" : spec.act());
  Put(root, keys.hidden_size, spec.hidden_size());
  Put(root, keys.intermediate_size, spec.intermediate_size());
  Put(root, keys.max_position, spec.max_position());
  Put(root, keys.mlp_bias, spec.mlp_bias());
  root["model_type"] = std::string(family->model_type);
  Put(root, keys.head_count, spec.head_count());
  Put(root, keys.layer_count, spec.layer_count());
  Put(root, keys.kv_head_count, spec.kv_head_count());
  Put(root, keys.expert_count, spec.expert_count());
  Put(root, keys.experts_per_token, spec.experts_per_token());
  Put(root, keys.norm_eps, spec.norm_eps());
  Put(root, keys.clip_qkv, spec.clip_qkv() > 0 ? Json(spec.clip_qkv()) : Json(nullptr));
  Put(root, keys.expert_weight_norm, spec.normalized_experts() ? Json(1.0) : Json(nullptr));
  Json scaling = nullptr;
  if (const v1::RopeScaling& rope = spec.rope_scaling(); !rope.type().empty()) {
    scaling = {{"rope_type", rope.type()}, {"factor", rope.factor()}};
    if (rope.type() == "llama3") {
      scaling["low_freq_factor"] = rope.low_freq_factor();
      scaling["high_freq_factor"] = rope.high_freq_factor();
      scaling["original_max_position_embeddings"] = rope.original_max_position();
    }
  }
  Put(root, keys.rope_scaling, scaling);
  Put(root, keys.rope_theta, spec.rope_theta());
  Put(root, keys.sliding_window, nullptr);
  root["tie_word_embeddings"] = spec.tied_embeddings();
  if (const std::string_view name = TorchName(FromProto(spec.dtype())); !name.empty()) {
    root["torch_dtype"] = std::string(name);
  }
  root["use_cache"] = true;
  Put(root, keys.use_sliding_window, false);
  Put(root, keys.vocab_size, spec.vocab_size());
  return JsonText(root);
}

std::string GenerationConfigText(const v1::ModelSpec& spec) {
  Json root;
  root["bos_token_id"] = BeginId(spec);
  root["eos_token_id"] = EndIds(spec);
  return JsonText(root);
}

}  // namespace octavo
