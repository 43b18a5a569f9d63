// The table of families. Tensor names and shapes: the Hugging Face implementations' published
// checkpoints. A family's rows are runs of rows that it shares with others.

#include <array>

#include "core/model/family.h"

namespace octavo {
namespace {

template <size_t... kCounts>
constexpr auto Join(const std::array<TensorRow, kCounts>&... runs) {
  std::array<TensorRow, (kCounts + ...)> all = {};
  size_t next = 0;
  const auto append = [&](const auto& run) {
    for (const TensorRow& row : run) all[next++] = row;
  };
  (append(runs), ...);
  return all;
}

constexpr std::array kEmbedding = {
    TensorRow{v1::EMBEDDING, "model.embed_tokens.weight", Dim::kVocab, Dim::kHidden},
};

constexpr std::array kAttention = {
    TensorRow{v1::ATTENTION_NORM, "model.layers.{L}.input_layernorm.weight", Dim::kHidden,
              Dim::kNone},
    TensorRow{v1::Q_PROJ, "model.layers.{L}.self_attn.q_proj.weight", Dim::kQuery, Dim::kHidden},
    TensorRow{v1::Q_BIAS, "model.layers.{L}.self_attn.q_proj.bias", Dim::kQuery, Dim::kNone,
              Presence::kAttentionBias},
    TensorRow{v1::K_PROJ, "model.layers.{L}.self_attn.k_proj.weight", Dim::kKeyValue, Dim::kHidden},
    TensorRow{v1::K_BIAS, "model.layers.{L}.self_attn.k_proj.bias", Dim::kKeyValue, Dim::kNone,
              Presence::kAttentionBias},
    TensorRow{v1::V_PROJ, "model.layers.{L}.self_attn.v_proj.weight", Dim::kKeyValue, Dim::kHidden},
    TensorRow{v1::V_BIAS, "model.layers.{L}.self_attn.v_proj.bias", Dim::kKeyValue, Dim::kNone,
              Presence::kAttentionBias},
    TensorRow{v1::O_PROJ, "model.layers.{L}.self_attn.o_proj.weight", Dim::kHidden, Dim::kQuery},
};

constexpr std::array kHeadNorms = {
    TensorRow{v1::Q_NORM, "model.layers.{L}.self_attn.q_norm.weight", Dim::kHeadDim, Dim::kNone},
    TensorRow{v1::K_NORM, "model.layers.{L}.self_attn.k_norm.weight", Dim::kHeadDim, Dim::kNone},
};

// Llama's switch covers the output projection too; Qwen2 has biases on q, k and v only.
constexpr std::array kOutputBias = {
    TensorRow{v1::O_BIAS, "model.layers.{L}.self_attn.o_proj.bias", Dim::kHidden, Dim::kNone,
              Presence::kAttentionBias},
};

constexpr std::array kMlpNorm = {
    TensorRow{v1::MLP_NORM, "model.layers.{L}.post_attention_layernorm.weight", Dim::kHidden,
              Dim::kNone},
};

constexpr std::array kMlp = {
    TensorRow{v1::GATE_PROJ, "model.layers.{L}.mlp.gate_proj.weight", Dim::kIntermediate,
              Dim::kHidden},
    TensorRow{v1::GATE_BIAS, "model.layers.{L}.mlp.gate_proj.bias", Dim::kIntermediate, Dim::kNone,
              Presence::kMlpBias},
    TensorRow{v1::UP_PROJ, "model.layers.{L}.mlp.up_proj.weight", Dim::kIntermediate, Dim::kHidden},
    TensorRow{v1::UP_BIAS, "model.layers.{L}.mlp.up_proj.bias", Dim::kIntermediate, Dim::kNone,
              Presence::kMlpBias},
    TensorRow{v1::DOWN_PROJ, "model.layers.{L}.mlp.down_proj.weight", Dim::kHidden,
              Dim::kIntermediate},
    TensorRow{v1::DOWN_BIAS, "model.layers.{L}.mlp.down_proj.bias", Dim::kHidden, Dim::kNone,
              Presence::kMlpBias},
};

constexpr std::array kMixtralExperts = {
    TensorRow{v1::ROUTER, "model.layers.{L}.block_sparse_moe.gate.weight", Dim::kExperts,
              Dim::kHidden},
    TensorRow{v1::EXPERT_GATE, "model.layers.{L}.block_sparse_moe.experts.{E}.w1.weight",
              Dim::kIntermediate, Dim::kHidden},
    TensorRow{v1::EXPERT_UP, "model.layers.{L}.block_sparse_moe.experts.{E}.w3.weight",
              Dim::kIntermediate, Dim::kHidden},
    TensorRow{v1::EXPERT_DOWN, "model.layers.{L}.block_sparse_moe.experts.{E}.w2.weight",
              Dim::kHidden, Dim::kIntermediate},
};

constexpr std::array kEnd = {
    TensorRow{v1::IGNORED, "model.layers.{L}.self_attn.rotary_emb.inv_freq", Dim::kNone, Dim::kNone,
              Presence::kIgnored},
    TensorRow{v1::FINAL_NORM, "model.norm.weight", Dim::kHidden, Dim::kNone},
    TensorRow{v1::LM_HEAD, "lm_head.weight", Dim::kVocab, Dim::kHidden, Presence::kUntied},
};

constexpr auto kLlamaRows = Join(kEmbedding, kAttention, kOutputBias, kMlpNorm, kMlp, kEnd);
constexpr auto kQwen2Rows = Join(kEmbedding, kAttention, kMlpNorm, kMlp, kEnd);

constexpr auto kMixtralRows = Join(kEmbedding, kAttention, kMlpNorm, kMixtralExperts, kEnd);

constexpr auto kQwen3Rows =
    Join(kEmbedding, kAttention, kHeadNorms, kOutputBias, kMlpNorm, kMlp, kEnd);

constexpr std::array kDbrxAttention = {
    TensorRow{v1::EMBEDDING, "transformer.wte.weight", Dim::kVocab, Dim::kHidden},
    TensorRow{v1::ATTENTION_NORM, "transformer.blocks.{L}.norm_attn_norm.norm_1.weight",
              Dim::kHidden, Dim::kNone},
    TensorRow{v1::FUSED_QKV, "transformer.blocks.{L}.norm_attn_norm.attn.Wqkv.weight",
              Dim::kFusedQkv, Dim::kHidden},
    TensorRow{v1::O_PROJ, "transformer.blocks.{L}.norm_attn_norm.attn.out_proj.weight",
              Dim::kHidden, Dim::kQuery},
    TensorRow{v1::MLP_NORM, "transformer.blocks.{L}.norm_attn_norm.norm_2.weight", Dim::kHidden,
              Dim::kNone},
    TensorRow{v1::ROUTER, "transformer.blocks.{L}.ffn.router.layer.weight", Dim::kExperts,
              Dim::kHidden},
};

// As published: all experts of a layer in one matrix, under bare names or dotted ones; in quantized
// folders with an underscore.
constexpr std::array<TensorRow, 3> DbrxStacks(std::string_view gate, std::string_view up,
                                              std::string_view down, int32_t spelling) {
  return {{{v1::STACKED_GATE, gate, Dim::kAllExperts, Dim::kHidden, Presence::kAlways, spelling},
           {v1::STACKED_UP, up, Dim::kAllExperts, Dim::kHidden, Presence::kAlways, spelling},
           {v1::STACKED_DOWN, down, Dim::kAllExperts, Dim::kHidden, Presence::kAlways, spelling}}};
}

// As others split them: one linear layer each, the last one [outputs, inputs] like any other.
constexpr std::array<TensorRow, 3> DbrxSplit(std::string_view gate, std::string_view up,
                                             std::string_view down, int32_t spelling) {
  return {{{v1::EXPERT_GATE, gate, Dim::kIntermediate, Dim::kHidden, Presence::kAlways, spelling},
           {v1::EXPERT_UP, up, Dim::kIntermediate, Dim::kHidden, Presence::kAlways, spelling},
           {v1::EXPERT_DOWN, down, Dim::kHidden, Dim::kIntermediate, Presence::kAlways, spelling}}};
}

constexpr auto kDbrxExperts =
    Join(DbrxStacks("transformer.blocks.{L}.ffn.experts.mlp.w1",
                    "transformer.blocks.{L}.ffn.experts.mlp.v1",
                    "transformer.blocks.{L}.ffn.experts.mlp.w2", 0),
         DbrxStacks("transformer.blocks.{L}.ffn.experts.mlp.w1.weight",
                    "transformer.blocks.{L}.ffn.experts.mlp.v1.weight",
                    "transformer.blocks.{L}.ffn.experts.mlp.w2.weight", 1),
         DbrxSplit("transformer.blocks.{L}.ffn.experts.mlp.{E}.w1.weight",
                   "transformer.blocks.{L}.ffn.experts.mlp.{E}.v1.weight",
                   "transformer.blocks.{L}.ffn.experts.mlp.{E}.w2.weight", 2),
         DbrxSplit("transformer.blocks.{L}.ffn.experts.mlp_experts.{E}.w1.weight",
                   "transformer.blocks.{L}.ffn.experts.mlp_experts.{E}.v1.weight",
                   "transformer.blocks.{L}.ffn.experts.mlp_experts.{E}.w2.weight", 3),
         DbrxStacks("transformer.blocks.{L}.ffn.experts.mlp.w1_weight",
                    "transformer.blocks.{L}.ffn.experts.mlp.v1_weight",
                    "transformer.blocks.{L}.ffn.experts.mlp.w2_weight", 4));

constexpr std::array kDbrxEnd = {
    TensorRow{v1::FINAL_NORM, "transformer.norm_f.weight", Dim::kHidden, Dim::kNone},
    TensorRow{v1::LM_HEAD, "lm_head.weight", Dim::kVocab, Dim::kHidden, Presence::kUntied},
};

constexpr auto kDbrxRows = Join(kDbrxAttention, kDbrxExperts, kDbrxEnd);

constexpr ConfigKeys kDbrxKeys = {.hidden_size = "d_model",
                                  .intermediate_size = "ffn_config/ffn_hidden_size",
                                  .layer_count = "n_layers",
                                  .head_count = "n_heads",
                                  .kv_head_count = "attn_config/kv_n_heads",
                                  .head_dim = "",
                                  .max_position = "max_seq_len",
                                  .norm_eps = "",
                                  .rope_theta = "attn_config/rope_theta",
                                  .rope_scaling = "",
                                  .attention_bias = "",
                                  .mlp_bias = "",
                                  .act = "ffn_config/ffn_act_fn/name",
                                  .expert_count = "ffn_config/moe_num_experts",
                                  .experts_per_token = "ffn_config/moe_top_k",
                                  .clip_qkv = "attn_config/clip_qkv",
                                  .expert_weight_norm = "ffn_config/moe_normalize_expert_weights"};

constexpr ConfigKeys kNoBiasKeys = {.attention_bias = "", .mlp_bias = ""};

constexpr ConfigKeys MistralKeys() {
  ConfigKeys keys = kNoBiasKeys;
  keys.sliding_window = "sliding_window";
  return keys;
}

constexpr ConfigKeys Qwen2Keys() {
  ConfigKeys keys = MistralKeys();
  keys.use_sliding_window = "use_sliding_window";
  return keys;
}

constexpr ConfigKeys Qwen3Keys() {
  ConfigKeys keys = Qwen2Keys();
  keys.attention_bias = "attention_bias";
  return keys;
}

constexpr ConfigKeys MixtralKeys() {
  ConfigKeys keys = MistralKeys();
  keys.expert_count = "num_local_experts";
  keys.experts_per_token = "num_experts_per_tok";
  return keys;
}

constexpr std::array kFamilies = {
    Family{.name = "llama",
           .model_type = "llama",
           .architecture = "LlamaForCausalLM",
           .rows = kLlamaRows,
           .keys = {}},
    Family{.name = "mistral",
           .model_type = "mistral",
           .architecture = "MistralForCausalLM",
           .rows = kLlamaRows,
           .keys = MistralKeys(),
           .kv_head_count_default = 8,
           .max_position_default = 131072,
           .sliding_window_default = 4096},
    Family{.name = "qwen2",
           .model_type = "qwen2",
           .architecture = "Qwen2ForCausalLM",
           .rows = kQwen2Rows,
           .keys = Qwen2Keys(),
           .attention_bias_default = true,
           .kv_head_count_default = 32,
           .max_position_default = 32768,
           .sliding_window_default = 4096},
    Family{.name = "mixtral",
           .model_type = "mixtral",
           .architecture = "MixtralForCausalLM",
           .rows = kMixtralRows,
           .keys = MixtralKeys(),
           .kv_head_count_default = 8,
           .norm_eps_default = 1e-5,
           .rope_theta_default = 1e6,
           .max_position_default = 131072,
           .expert_count_default = 8,
           .experts_per_token_default = 2,
           .normalized_experts = true},
    Family{.name = "dbrx",
           .model_type = "dbrx",
           .architecture = "DbrxForCausalLM",
           .rows = kDbrxRows,
           .keys = kDbrxKeys,
           .kv_head_count_default = 1,
           .norm_eps_default = 1e-5,
           .expert_count_default = 4,
           .experts_per_token_default = 1,
           .normalized_experts = true,
           .layer_norm = true},
    Family{.name = "qwen3",
           .model_type = "qwen3",
           .architecture = "Qwen3ForCausalLM",
           .rows = kQwen3Rows,
           .keys = Qwen3Keys(),
           .kv_head_count_default = 32,
           .head_dim_default = 128,
           .max_position_default = 32768,
           .sliding_window_default = 4096},
};

}  // namespace

std::span<const Family> Families() { return kFamilies; }

}  // namespace octavo
