#include "core/checkpoint/gguf_config.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>
#include <set>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/printable.h"
#include "fmt/format.h"

namespace octavo {
namespace {

struct NameRow {
  v1::TensorRole role;
  std::string_view name;  // "{L}": the layer
};

constexpr NameRow kNames[] = {
    {v1::EMBEDDING, "token_embd.weight"},
    {v1::FINAL_NORM, "output_norm.weight"},
    {v1::LM_HEAD, "output.weight"},
    {v1::ATTENTION_NORM, "blk.{L}.attn_norm.weight"},
    {v1::MLP_NORM, "blk.{L}.ffn_norm.weight"},
    {v1::Q_PROJ, "blk.{L}.attn_q.weight"},
    {v1::K_PROJ, "blk.{L}.attn_k.weight"},
    {v1::V_PROJ, "blk.{L}.attn_v.weight"},
    {v1::O_PROJ, "blk.{L}.attn_output.weight"},
    {v1::Q_BIAS, "blk.{L}.attn_q.bias"},
    {v1::K_BIAS, "blk.{L}.attn_k.bias"},
    {v1::V_BIAS, "blk.{L}.attn_v.bias"},
    {v1::O_BIAS, "blk.{L}.attn_output.bias"},
    {v1::GATE_PROJ, "blk.{L}.ffn_gate.weight"},
    {v1::UP_PROJ, "blk.{L}.ffn_up.weight"},
    {v1::DOWN_PROJ, "blk.{L}.ffn_down.weight"},
    {v1::GATE_BIAS, "blk.{L}.ffn_gate.bias"},
    {v1::UP_BIAS, "blk.{L}.ffn_up.bias"},
    {v1::DOWN_BIAS, "blk.{L}.ffn_down.bias"},
};

std::string GgufName(v1::TensorRole role, int32_t layer) {
  for (const NameRow& row : kNames) {
    if (row.role != role) continue;
    std::string name(row.name);
    if (const size_t at = name.find("{L}"); at != std::string::npos) {
      name.replace(at, 3, std::to_string(layer));
    }
    return name;
  }
  return "";
}

bool HasTensor(const GgufFile& file, std::string_view name) {
  return std::any_of(file.tensors.begin(), file.tensors.end(),
                     [&](const GgufTensor& tensor) { return tensor.name == name; });
}

// The double nearest to the shortest decimal of an F32: 1e-05, not 9.99999974737875e-06.
double Tidy(double value) {
  const float narrow = static_cast<float>(value);
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, narrow);
  double tidy = value;
  std::from_chars(text, end.ptr, tidy);
  return static_cast<float>(tidy) == narrow ? tidy : value;
}

absl::StatusOr<int64_t> NeedInt(const GgufFile& file, const std::string& key) {
  OCTAVO_ASSIGN_OR_RETURN(const std::optional<int64_t> value, GgufInt(file, key));
  if (!value) return BadGguf(fmt::format("metadata {} is missing", key));
  return *value;
}

absl::Status ReadSizes(const GgufFile& file, v1::ModelSpec& spec) {
  OCTAVO_ASSIGN_OR_RETURN(const int64_t layers, NeedInt(file, "llama.block_count"));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t hidden, NeedInt(file, "llama.embedding_length"));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t inner, NeedInt(file, "llama.feed_forward_length"));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t heads, NeedInt(file, "llama.attention.head_count"));
  OCTAVO_ASSIGN_OR_RETURN(const auto kv_heads, GgufInt(file, "llama.attention.head_count_kv"));
  OCTAVO_ASSIGN_OR_RETURN(const auto key_length, GgufInt(file, "llama.attention.key_length"));
  OCTAVO_ASSIGN_OR_RETURN(const auto value_length, GgufInt(file, "llama.attention.value_length"));
  OCTAVO_ASSIGN_OR_RETURN(const auto rotated, GgufInt(file, "llama.rope.dimension_count"));
  OCTAVO_ASSIGN_OR_RETURN(const int64_t context, NeedInt(file, "llama.context_length"));
  OCTAVO_ASSIGN_OR_RETURN(const auto vocab, GgufInt(file, "llama.vocab_size"));
  OCTAVO_ASSIGN_OR_RETURN(const auto* tokens, GgufStrings(file, "tokenizer.ggml.tokens"));
  if (heads < 1 || hidden < 1)
    return BadGguf("llama.attention.head_count or embedding_length below 1");
  if (!vocab && tokens == nullptr) return BadGguf("metadata llama.vocab_size is missing");
  if (!key_length && hidden % heads != 0) {
    return BadGguf("llama.embedding_length is no multiple of llama.attention.head_count");
  }
  const int64_t head_dim = key_length.value_or(hidden / heads);
  if (value_length.value_or(head_dim) != head_dim || rotated.value_or(head_dim) != head_dim) {
    return MakeError(Reason::kUnsupported, "key length, value length and rotated dimensions differ",
                     {}, "Import a plain Llama model");
  }
  spec.set_hidden_size(hidden);
  spec.set_intermediate_size(inner);
  spec.set_layer_count(layers);
  spec.set_head_count(heads);
  spec.set_kv_head_count(kv_heads.value_or(heads));
  spec.set_head_dim(head_dim);
  spec.set_vocab_size(vocab.value_or(tokens == nullptr ? 0 : static_cast<int64_t>(tokens->size())));
  spec.set_max_position(context);
  return absl::OkStatus();
}

absl::Status ReadRope(const GgufFile& file, v1::ModelSpec& spec) {
  OCTAVO_ASSIGN_OR_RETURN(const auto eps,
                          GgufFloat(file, "llama.attention.layer_norm_rms_epsilon"));
  if (!eps || !(*eps > 0.0) || *eps >= 1.0)
    return BadGguf("layer_norm_rms_epsilon is missing or absurd");
  spec.set_norm_eps(Tidy(*eps));
  OCTAVO_ASSIGN_OR_RETURN(const auto theta, GgufFloat(file, "llama.rope.freq_base"));
  spec.set_rope_theta(Tidy(theta.value_or(10000.0)));
  if (!(spec.rope_theta() > 0.0) || !std::isfinite(spec.rope_theta())) {
    return BadGguf("llama.rope.freq_base is not positive");
  }
  OCTAVO_ASSIGN_OR_RETURN(const auto type, GgufString(file, "llama.rope.scaling.type"));
  OCTAVO_ASSIGN_OR_RETURN(const auto factor, GgufFloat(file, "llama.rope.scaling.factor"));
  const std::string kind = type.value_or("none");
  if (kind == "none") return absl::OkStatus();
  if (kind != "linear") {
    return MakeError(Reason::kUnsupported,
                     fmt::format("rope scaling \"{}\" is not supported yet", Printable(kind)), {},
                     "Supported: none, linear, and the factors of Llama 3.1");
  }
  if (!factor || !(*factor >= 1.0) || !std::isfinite(*factor)) {
    return BadGguf("llama.rope.scaling.factor is missing or absurd");
  }
  spec.mutable_rope_scaling()->set_type("linear");
  spec.mutable_rope_scaling()->set_factor(Tidy(*factor));
  return absl::OkStatus();
}

absl::Status ReadTokenIds(const GgufFile& file, v1::ModelSpec& spec) {
  OCTAVO_ASSIGN_OR_RETURN(const auto bos, GgufInt(file, "tokenizer.ggml.bos_token_id"));
  spec.set_bos_token_id(static_cast<int32_t>(bos.value_or(-1)));
  if (bos && (*bos < 0 || *bos >= spec.vocab_size())) return BadGguf("bos_token_id is no token");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    OCTAVO_ASSIGN_OR_RETURN(const auto id, GgufInt(file, key));
    if (!id) continue;
    if (*id < 0 || *id >= spec.vocab_size()) return BadGguf(fmt::format("{} is no token", key));
    const auto& known = spec.eos_token_ids();
    if (std::find(known.begin(), known.end(), *id) == known.end()) {
      spec.add_eos_token_ids(static_cast<int32_t>(*id));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::ModelSpec> GgufModelSpec(const GgufFile& file) {
  OCTAVO_ASSIGN_OR_RETURN(const auto architecture, GgufString(file, "general.architecture"));
  if (architecture.value_or("") != "llama") {
    return MakeError(Reason::kUnsupported,
                     fmt::format("GGUF architecture \"{}\" is not supported yet",
                                 Printable(architecture.value_or(""))),
                     {}, "Supported: llama");
  }
  v1::ModelSpec spec;
  spec.set_family("llama");
  spec.set_architecture("LlamaForCausalLM");
  spec.set_act("silu");
  spec.set_dtype(v1::BF16);
  OCTAVO_ASSIGN_OR_RETURN(const auto experts, GgufInt(file, "llama.expert_count"));
  if (experts.value_or(0) > 0) {
    return MakeError(Reason::kUnsupported, "mixtures of experts are not imported yet", {},
                     "Import a dense Llama model");
  }
  OCTAVO_RETURN_IF_ERROR(ReadSizes(file, spec));
  OCTAVO_RETURN_IF_ERROR(ReadRope(file, spec));
  OCTAVO_RETURN_IF_ERROR(ReadTokenIds(file, spec));
  spec.set_tied_embeddings(!HasTensor(file, GgufName(v1::LM_HEAD, 0)));
  spec.set_attention_bias(HasTensor(file, GgufName(v1::Q_BIAS, 0)));
  spec.set_mlp_bias(HasTensor(file, GgufName(v1::DOWN_BIAS, 0)));
  OCTAVO_RETURN_IF_ERROR(CheckSpec(spec, "GGUF metadata"));
  return spec;
}

absl::StatusOr<v1::RopeScaling> RopeScalingFromFactors(std::span<const float> factors,
                                                       const v1::ModelSpec& spec) {
  v1::RopeScaling scaling;
  scaling.set_type("llama3");
  scaling.set_factor(*std::max_element(factors.begin(), factors.end()));
  scaling.set_low_freq_factor(1.0);
  scaling.set_high_freq_factor(4.0);
  scaling.set_original_max_position(8192);
  const double original = 8192.0;
  bool same = std::isfinite(scaling.factor()) && scaling.factor() >= 1.0;
  for (size_t i = 0; i < factors.size() && same; ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(spec.head_dim());
    const double wave = 2.0 * std::numbers::pi * std::pow(spec.rope_theta(), exponent);
    double want = 1.0;
    if (wave > original) {
      want = scaling.factor();
    } else if (wave > original / 4.0) {
      const double smooth = (original / wave - 1.0) / 3.0;
      want = 1.0 / ((1.0 - smooth) / scaling.factor() + smooth);
    }
    same = std::abs(factors[i] - want) <= 1e-3 * want;
  }
  if (!same) {
    return MakeError(Reason::kUnsupported, "these factors are not those of Llama 3.1",
                     {.tensor = kRopeFactorsTensor}, "Get the model's safetensors files");
  }
  return scaling;
}

absl::StatusOr<std::vector<GgufSource>> MatchGgufTensors(const GgufFile& file,
                                                         const v1::ModelSpec& spec) {
  std::map<std::string_view, const GgufTensor*> left;
  for (const GgufTensor& tensor : file.tensors) {
    if (tensor.name != kRopeFactorsTensor) left[tensor.name] = &tensor;
  }
  OCTAVO_ASSIGN_OR_RETURN(std::vector<ExpectedTensor> expected, ExpectedTensors(spec));
  std::vector<GgufSource> sources;
  for (ExpectedTensor& target : expected) {
    const std::string name = GgufName(target.role, target.layer);
    const auto it = left.find(name);
    if (it == left.end()) {
      return MakeError(Reason::kBadCheckpoint, "tensor is missing", {.tensor = name},
                       "Convert the model to GGUF again");
    }
    GgufSource source{.target = std::move(target), .source = it->second};
    left.erase(it);
    if (!CanDequantize(source.source->type)) {
      return MakeError(
          Reason::kUnsupported,
          fmt::format("tensor type {} is not supported", GgmlTypeName(source.source->type)),
          {.tensor = name}, "Use a file in F32, F16, BF16, Q8_0, Q4_0 or Q4_1");
    }
    if (source.source->shape != source.target.shape) {
      return MakeError(
          Reason::kBadCheckpoint,
          fmt::format("shape [{}] is not [{}] as the metadata says",
                      fmt::join(source.source->shape, ", "), fmt::join(source.target.shape, ", ")),
          {{}, name, source.source->begin}, "Convert the model to GGUF again");
    }
    const v1::TensorRole role = source.target.role;
    if (role == v1::Q_PROJ || role == v1::K_PROJ || role == v1::Q_BIAS || role == v1::K_BIAS) {
      source.interleaved_head_rows = spec.head_dim();
    }
    sources.push_back(std::move(source));
  }
  if (!left.empty()) {
    return MakeError(Reason::kUnsupported, "tensor has no place in a llama model",
                     {.tensor = Printable(left.begin()->first)},
                     "The model has parts that Octavo does not know");
  }
  return sources;
}

}  // namespace octavo
