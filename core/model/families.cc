// The table of families. Tensor names and shapes: the Hugging Face implementations' published
// checkpoints.

#include <array>

#include "core/model/family.h"

namespace octavo {
namespace {

constexpr std::array kLlamaRows = {
    TensorRow{v1::EMBEDDING, "model.embed_tokens.weight", Dim::kVocab, Dim::kHidden},
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
    TensorRow{v1::O_BIAS, "model.layers.{L}.self_attn.o_proj.bias", Dim::kHidden, Dim::kNone,
              Presence::kAttentionBias},
    TensorRow{v1::MLP_NORM, "model.layers.{L}.post_attention_layernorm.weight", Dim::kHidden,
              Dim::kNone},
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
    TensorRow{v1::IGNORED, "model.layers.{L}.self_attn.rotary_emb.inv_freq", Dim::kNone, Dim::kNone,
              Presence::kIgnored},
    TensorRow{v1::FINAL_NORM, "model.norm.weight", Dim::kHidden, Dim::kNone},
    TensorRow{v1::LM_HEAD, "lm_head.weight", Dim::kVocab, Dim::kHidden, Presence::kUntied},
};

constexpr std::array kFamilies = {
    Family{.name = "llama",
           .model_type = "llama",
           .architecture = "LlamaForCausalLM",
           .rows = kLlamaRows,
           .keys = {}},
};

}  // namespace

std::span<const Family> Families() { return kFamilies; }

}  // namespace octavo
