#include "core/checkpoint/hf_config.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <optional>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/config_json.h"
#include "core/model/family.h"
#include "core/tensor/dtype.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kConfigFile = "config.json";
constexpr std::string_view kGenerationFile = "generation_config.json";
constexpr size_t kEndIdsMax = 64;

absl::Status Bad(std::string_view file, const std::string& what) {
  return MakeError(Reason::kBadCheckpoint, what, {.file = file},
                   "Restore the file from the model's source");
}

absl::Status NotHandled(const std::string& what, const std::string& cure) {
  return MakeError(Reason::kUnsupported, what, {.file = kConfigFile}, cure);
}

// The value at a path of keys; nullptr when absent or null.
const Json* Find(const Json& root, std::string_view path) {
  const Json* at = &root;
  while (!path.empty()) {
    const size_t slash = path.find('/');
    const std::string key(path.substr(0, slash));
    if (!at->is_object()) return nullptr;
    const auto it = at->find(key);
    if (it == at->end()) return nullptr;
    at = &*it;
    path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
  }
  return at == &root || at->is_null() ? nullptr : at;
}

// Typed access to one object of one file.
class Reader {
 public:
  Reader(const Json& root, std::string_view file) : root_(root), file_(file) {}

  const Json* Get(std::string_view path) const { return Find(root_, path); }
  // True for a key that is there, even if null.
  bool Has(std::string_view path) const {
    const size_t slash = path.rfind('/');
    const bool top = slash == std::string_view::npos;
    const Json* parent = top ? &root_ : Get(path.substr(0, slash));
    return parent != nullptr && parent->contains(std::string(top ? path : path.substr(slash + 1)));
  }

  absl::StatusOr<std::optional<int64_t>> Int(std::string_view path) const {
    const Json* value = Get(path);
    if (value == nullptr) return std::optional<int64_t>();
    if (!value->is_number_integer() ||
        (value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{INT64_MAX})) {
      return Bad(file_, fmt::format("{} is no integer", path));
    }
    return value->get<int64_t>();
  }
  absl::StatusOr<int64_t> Int(std::string_view path, std::optional<int64_t> fallback) const {
    OCTAVO_ASSIGN_OR_RETURN(const std::optional<int64_t> value, Int(path));
    if (value) return *value;
    if (fallback) return *fallback;
    return Bad(file_, fmt::format("{} is missing", path));
  }
  absl::StatusOr<std::optional<double>> Number(std::string_view path) const {
    const Json* value = Get(path);
    if (value == nullptr) return std::optional<double>();
    if (!value->is_number() || !std::isfinite(value->get<double>())) {
      return Bad(file_, fmt::format("{} is no finite number", path));
    }
    return value->get<double>();
  }
  absl::StatusOr<double> Number(std::string_view path, std::optional<double> fallback) const {
    OCTAVO_ASSIGN_OR_RETURN(const std::optional<double> value, Number(path));
    if (value) return *value;
    if (fallback) return *fallback;
    return Bad(file_, fmt::format("{} is missing", path));
  }
  absl::StatusOr<bool> Bool(std::string_view path, bool fallback) const {
    const Json* value = Get(path);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) return Bad(file_, fmt::format("{} is no boolean", path));
    return value->get<bool>();
  }
  absl::StatusOr<std::string> Text(std::string_view path, std::string_view fallback) const {
    const Json* value = Get(path);
    if (value == nullptr) return std::string(fallback);
    if (!value->is_string()) return Bad(file_, fmt::format("{} is no string", path));
    return value->get<std::string>();
  }

 private:
  const Json& root_;
  std::string_view file_;
};

absl::StatusOr<const Family*> FindFamily(const Reader& config) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string model_type, config.Text("model_type", ""));
  const Family* family = FamilyByModelType(model_type);
  std::string architecture;
  if (const Json* list = config.Get("architectures"); list != nullptr) {
    if (!list->is_array() || list->empty() || !list->front().is_string()) {
      return Bad(kConfigFile, "architectures is no list of names");
    }
    architecture = list->front().get<std::string>();
  }
  if (family == nullptr) {
    if (model_type.empty()) return Bad(kConfigFile, "model_type is missing");
    return NotHandled(fmt::format("model_type \"{}\" is not supported yet", model_type),
                      fmt::format("Supported: {}", FamilyNames()));
  }
  if (!architecture.empty() && architecture != family->architecture) {
    return NotHandled(
        fmt::format("architecture \"{}\" is not supported", architecture),
        fmt::format("For model_type {} it must be {}", model_type, family->architecture));
  }
  return family;
}

absl::Status ReadRopeScaling(const Json& json, const v1::ModelSpec& spec, v1::RopeScaling& out) {
  const Reader rope(json, kConfigFile);
  OCTAVO_ASSIGN_OR_RETURN(const std::string old_name, rope.Text("type", "default"));
  OCTAVO_ASSIGN_OR_RETURN(const std::string type, rope.Text("rope_type", old_name));
  OCTAVO_ASSIGN_OR_RETURN(const double part, rope.Number("partial_rotary_factor", 1.0));
  if (part != 1.0) return NotHandled("partial rotary embeddings", "Use another model");
  if (type == "default") return absl::OkStatus();
  if (type != "linear" && type != "llama3") {
    return NotHandled(fmt::format("rope scaling \"{}\" is not supported yet", type),
                      "Supported: default, linear, llama3");
  }
  out.set_type(type);
  OCTAVO_ASSIGN_OR_RETURN(const double factor, rope.Number("factor", std::nullopt));
  if (factor < 1.0) return Bad(kConfigFile, fmt::format("rope factor {} is below 1", factor));
  out.set_factor(factor);
  if (type == "linear") return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(const double low, rope.Number("low_freq_factor", std::nullopt));
  OCTAVO_ASSIGN_OR_RETURN(const double high, rope.Number("high_freq_factor", std::nullopt));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t original,
                          rope.Int("original_max_position_embeddings", spec.max_position()));
  if (!(low > 0.0) || !(high > low) || original < 1) {
    return Bad(kConfigFile, fmt::format("llama3 rope scaling with low {}, high {}, original {}",
                                        low, high, original));
  }
  out.set_low_freq_factor(low);
  out.set_high_freq_factor(high);
  out.set_original_max_position(original);
  return absl::OkStatus();
}

// transformers 5 has one object rope_parameters, 4 has rope_theta beside an optional rope_scaling.
absl::Status ReadRope(const Reader& config, const Family& family, v1::ModelSpec& spec) {
  const ConfigKeys& keys = family.keys;
  OCTAVO_ASSIGN_OR_RETURN(std::optional<double> theta, config.Number(keys.rope_theta));
  const Json* parameters = config.Get(keys.rope_parameters);
  const Json* scaling = config.Get(keys.rope_scaling);
  if (parameters != nullptr) {
    if (!parameters->is_object()) return Bad(kConfigFile, "rope_parameters is no object");
    OCTAVO_ASSIGN_OR_RETURN(const std::optional<double> inner,
                            Reader(*parameters, kConfigFile).Number("rope_theta"));
    if (theta && inner && *theta != *inner) {
      return Bad(kConfigFile, "rope_theta and rope_parameters contradict each other");
    }
    if (inner) theta = inner;
    scaling = parameters;
  }
  spec.set_rope_theta(theta.value_or(family.rope_theta_default));
  if (!(spec.rope_theta() > 0.0)) return Bad(kConfigFile, "rope_theta is not positive");
  if (scaling == nullptr) return absl::OkStatus();
  if (!scaling->is_object()) return Bad(kConfigFile, "rope_scaling is no object");
  v1::RopeScaling read;
  OCTAVO_RETURN_IF_ERROR(ReadRopeScaling(*scaling, spec, read));
  if (!read.type().empty()) *spec.mutable_rope_scaling() = read;
  return absl::OkStatus();
}

// Up to a sliding window's length every position sees all before it: that is as far as we go.
absl::StatusOr<int64_t> ReadMaxPosition(const Reader& config, const Family& family) {
  const ConfigKeys& keys = family.keys;
  OCTAVO_ASSIGN_OR_RETURN(const int64_t position,
                          config.Int(keys.max_position, family.max_position_default));
  OCTAVO_ASSIGN_OR_RETURN(const bool slides,
                          config.Bool(keys.use_sliding_window, keys.use_sliding_window.empty()));
  if (keys.sliding_window.empty() || !slides) return position;
  // A null window is no window; only a key that is not there has the family's default.
  const int64_t absent = config.Has(keys.sliding_window) ? 0 : family.sliding_window_default;
  OCTAVO_ASSIGN_OR_RETURN(const int64_t window, config.Int(keys.sliding_window, absent));
  if (window < 0) return Bad(kConfigFile, fmt::format("{} {}", keys.sliding_window, window));
  return window == 0 ? position : std::min(position, window);
}

absl::Status ReadSizes(const Reader& config, const Family& family, v1::ModelSpec& spec) {
  const ConfigKeys& keys = family.keys;
  OCTAVO_ASSIGN_OR_RETURN(const int64_t hidden, config.Int(keys.hidden_size, std::nullopt));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t inner, config.Int(keys.intermediate_size, std::nullopt));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t layers, config.Int(keys.layer_count, std::nullopt));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t heads, config.Int(keys.head_count, std::nullopt));
  OCTAVO_ASSIGN_OR_RETURN(
      const int64_t kv_heads,
      config.Int(keys.kv_head_count,
                 family.kv_head_count_default > 0 ? family.kv_head_count_default : heads));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t vocab, config.Int(keys.vocab_size, std::nullopt));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t position, ReadMaxPosition(config, family));
  if (heads < 1) return Bad(kConfigFile, fmt::format("{} {} is below 1", keys.head_count, heads));
  OCTAVO_ASSIGN_OR_RETURN(const std::optional<int64_t> head_dim, config.Int(keys.head_dim));
  if (!head_dim && family.head_dim_default == 0 && hidden % heads != 0) {
    return Bad(kConfigFile, fmt::format("{} {} is no multiple of {} {} and {} is missing",
                                        keys.hidden_size, hidden, keys.head_count, heads,
                                        keys.head_dim.empty() ? "head_dim" : keys.head_dim));
  }
  spec.set_hidden_size(hidden);
  spec.set_intermediate_size(inner);
  spec.set_layer_count(layers);
  spec.set_head_count(heads);
  spec.set_kv_head_count(kv_heads);
  const int64_t own = family.head_dim_default > 0 ? family.head_dim_default : hidden / heads;
  spec.set_head_dim(head_dim.value_or(own));
  spec.set_vocab_size(vocab);
  spec.set_max_position(position);
  if (!keys.expert_count.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(const int64_t experts,
                            config.Int(keys.expert_count, family.expert_count_default));
    OCTAVO_ASSIGN_OR_RETURN(const int64_t chosen,
                            config.Int(keys.experts_per_token, family.experts_per_token_default));
    spec.set_expert_count(experts);
    spec.set_experts_per_token(chosen);
  }
  return absl::OkStatus();
}

absl::Status ReadFlags(const Reader& config, const Family& family, v1::ModelSpec& spec) {
  const ConfigKeys& keys = family.keys;
  OCTAVO_ASSIGN_OR_RETURN(const double eps, config.Number(keys.norm_eps, family.norm_eps_default));
  if (!(eps > 0.0) || eps >= 1.0) {
    return Bad(kConfigFile, fmt::format("{} {} is outside (0, 1)", keys.norm_eps, eps));
  }
  spec.set_norm_eps(eps);
  OCTAVO_ASSIGN_OR_RETURN(const std::string act, config.Text(keys.act, "silu"));
  if (act != "silu") {
    return NotHandled(fmt::format("activation \"{}\" is not supported", act), "Supported: silu");
  }
  spec.set_act(act);
  OCTAVO_ASSIGN_OR_RETURN(const bool tied, config.Bool("tie_word_embeddings", false));
  OCTAVO_ASSIGN_OR_RETURN(const bool attention_bias,
                          config.Bool(keys.attention_bias, family.attention_bias_default));
  OCTAVO_ASSIGN_OR_RETURN(const bool mlp_bias, config.Bool(keys.mlp_bias, false));
  spec.set_tied_embeddings(tied);
  spec.set_attention_bias(attention_bias);
  spec.set_mlp_bias(mlp_bias);
  OCTAVO_ASSIGN_OR_RETURN(const std::string old_dtype, config.Text("torch_dtype", ""));
  OCTAVO_ASSIGN_OR_RETURN(std::string dtype, config.Text("dtype", old_dtype));
  if (dtype.starts_with("torch.")) dtype.erase(0, 6);
  for (const DType candidate : {DType::kBF16, DType::kF16, DType::kF32}) {
    if (TorchName(candidate) == dtype) spec.set_dtype(ToProto(candidate));
  }
  if (!dtype.empty() && spec.dtype() == v1::DTYPE_UNSPECIFIED) {
    return NotHandled(fmt::format("dtype \"{}\" is not supported", dtype),
                      "Supported: bfloat16, float16, float32");
  }
  return absl::OkStatus();
}

// What few families have.
absl::Status ReadRare(const Reader& config, const Family& family, v1::ModelSpec& spec) {
  const ConfigKeys& keys = family.keys;
  OCTAVO_ASSIGN_OR_RETURN(const std::optional<double> clip, config.Number(keys.clip_qkv));
  if (clip && !(*clip > 0.0)) {
    return Bad(kConfigFile, fmt::format("{} {} is not positive", keys.clip_qkv, *clip));
  }
  spec.set_clip_qkv(clip.value_or(0.0));
  if (keys.expert_weight_norm.empty()) return absl::OkStatus();
  OCTAVO_ASSIGN_OR_RETURN(const std::optional<double> norm, config.Number(keys.expert_weight_norm));
  if (norm && *norm != 1.0) {
    return NotHandled(fmt::format("{} {} is not supported", keys.expert_weight_norm, *norm),
                      "Supported: 1 and null");
  }
  const bool said = config.Has(keys.expert_weight_norm);
  spec.set_normalized_experts(said ? norm.has_value() : family.normalized_experts);
  return absl::OkStatus();
}

// One id, a list of ids, or nothing.
absl::StatusOr<std::vector<int32_t>> ReadIds(const Json* value, std::string_view file,
                                             std::string_view key) {
  std::vector<int32_t> ids;
  if (value == nullptr) return ids;
  auto add = [&](const Json& item) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > uint64_t{INT32_MAX}) return false;
    ids.push_back(item.get<int32_t>());
    return true;
  };
  if (!value->is_array()) {
    if (!add(*value)) return Bad(file, fmt::format("{} is no token id", key));
    return ids;
  }
  if (value->size() > kEndIdsMax) return Bad(file, fmt::format("{} has too many ids", key));
  for (const Json& item : *value) {
    if (!add(item)) return Bad(file, fmt::format("{} holds something that is no token id", key));
  }
  return ids;
}

// generation_config.json wins over config.json, key by key.
absl::Status ReadTokenIds(const Json& config, const Json& generation, v1::ModelSpec& spec) {
  auto read = [&](std::string_view key) {
    const Json* value = Find(generation, key);
    return value != nullptr ? ReadIds(value, kGenerationFile, key)
                            : ReadIds(Find(config, key), kConfigFile, key);
  };
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<int32_t> eos, read("eos_token_id"));
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<int32_t> bos, read("bos_token_id"));
  spec.mutable_eos_token_ids()->Assign(eos.begin(), eos.end());
  spec.set_bos_token_id(bos.empty() ? -1 : bos.front());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::ModelSpec> ParseConfig(std::string_view config_text,
                                          std::string_view generation_config_text) {
  OCTAVO_ASSIGN_OR_RETURN(const Json root, ParseJsonObject(config_text, kConfigFile));
  Json generation = Json::object();
  if (!generation_config_text.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(generation, ParseJsonObject(generation_config_text, kGenerationFile));
  }
  const Reader config(root, kConfigFile);
  OCTAVO_ASSIGN_OR_RETURN(const Family* family, FindFamily(config));
  v1::ModelSpec spec;
  OCTAVO_RETURN_IF_ERROR(ReadSizes(config, *family, spec));
  OCTAVO_RETURN_IF_ERROR(ReadFlags(config, *family, spec));
  OCTAVO_RETURN_IF_ERROR(ReadRare(config, *family, spec));
  OCTAVO_RETURN_IF_ERROR(ReadRope(config, *family, spec));
  OCTAVO_RETURN_IF_ERROR(ReadTokenIds(root, generation, spec));
  SetFamilyFacts(*family, spec);
  OCTAVO_RETURN_IF_ERROR(CheckSpec(spec, kConfigFile));
  return spec;
}

absl::StatusOr<bool> HasQuantization(std::string_view config_text) {
  OCTAVO_ASSIGN_OR_RETURN(const Json root, ParseJsonObject(config_text, kConfigFile));
  return Find(root, "quantization_config") != nullptr ||
         Find(root, "compression_config") != nullptr;
}

}  // namespace octavo
