// octavo synth: a random checkpoint of a given family and shape.

#include "core/checkpoint/synth.h"

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "cli/quantity.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/model/family.h"
#include "fmt/format.h"

namespace octavo {
namespace {

struct SynthFlags {
  std::string out;
  std::string family = "llama";
  std::string dtype = "bf16";
  std::string shard_size = "5GB";
  uint64_t seed = 0;
  int threads = 0;
  int64_t hidden = 512, intermediate = 0, layers = 2, heads = 8, kv_heads = 0, head_dim = 0;
  int64_t vocab = 4096, max_position = 2048, experts = 0, experts_per_token = 0;
  double rope_theta = 10000.0;
  double clip_qkv = 0;
  bool tied = false;
  bool biases = false;
};

absl::Status Synth(const SynthFlags& flags) {
  SynthSpec spec;
  v1::ModelSpec& model = spec.model;
  model.set_family(flags.family);
  model.set_hidden_size(flags.hidden);
  model.set_intermediate_size(flags.intermediate > 0 ? flags.intermediate : flags.hidden * 11 / 4);
  model.set_layer_count(flags.layers);
  model.set_head_count(flags.heads);
  model.set_kv_head_count(flags.kv_heads > 0 ? flags.kv_heads : flags.heads);
  model.set_head_dim(flags.head_dim);
  model.set_vocab_size(flags.vocab);
  model.set_max_position(flags.max_position);
  model.set_rope_theta(flags.rope_theta);
  model.set_expert_count(flags.experts);
  model.set_experts_per_token(flags.experts_per_token);
  model.set_tied_embeddings(flags.tied);
  model.set_attention_bias(flags.biases);
  model.set_clip_qkv(flags.clip_qkv);
  spec.dtype = flags.dtype == "f32"   ? DType::kF32
               : flags.dtype == "f16" ? DType::kF16
                                      : DType::kBF16;
  OCTAVO_ASSIGN_OR_RETURN(spec.shard_bytes_max, ParseBytes(flags.shard_size, "--shard-size"));
  spec.threads = flags.threads;
  OCTAVO_RETURN_IF_ERROR(WriteSynthetic(spec, flags.seed, flags.out));
  fmt::print("{}: random {} checkpoint, seed {}\n", flags.out, flags.family, flags.seed);
  return absl::OkStatus();
}

}  // namespace

void AddSynth(CLI::App& app, Context& context) {
  auto flags = std::make_shared<SynthFlags>();
  CLI::App* command = app.add_subcommand("synth", "A random checkpoint of a given shape");
  command->add_option("--out", flags->out, "Folder to make")->required();
  command->add_option("--family", flags->family, "Family: " + FamilyNames())->capture_default_str();
  command->add_option("--layers", flags->layers, "Layers")->capture_default_str();
  command->add_option("--hidden", flags->hidden, "Hidden size")->capture_default_str();
  command->add_option("--intermediate", flags->intermediate, "MLP size (default 2.75 x hidden)");
  command->add_option("--heads", flags->heads, "Query heads")->capture_default_str();
  command->add_option("--kv-heads", flags->kv_heads, "Key-value heads (default: --heads)");
  command->add_option("--head-dim", flags->head_dim, "Default: hidden size / heads");
  command->add_option("--vocab", flags->vocab, "Vocabulary size")->capture_default_str();
  command->add_option("--max-position", flags->max_position, "Longest sequence")
      ->capture_default_str();
  command->add_option("--rope-theta", flags->rope_theta, "RoPE base")->capture_default_str();
  command->add_option("--experts", flags->experts,
                      "Experts of each layer (mixtures; default: the family's own)");
  command->add_option("--experts-per-token", flags->experts_per_token, "Experts a token visits");
  command->add_option("--clip-qkv", flags->clip_qkv, "Clamp q, k and v (DBRX)");
  command->add_flag("--biases", flags->biases,
                    "Biases of attention (Llama, Qwen3; Qwen2 has them)");
  command->add_flag("--tied", flags->tied, "Share embedding and head");
  command->add_option("--dtype", flags->dtype, "bf16, f16 or f32")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->capture_default_str();
  command->add_option("--shard-size", flags->shard_size, "Tensor bytes per file, like 40MB")
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "Same seed, same bytes")->capture_default_str();
  command->add_option("--threads", flags->threads, "Default: all cores");
  command->callback([&context, flags] { context.action = [flags] { return Synth(*flags); }; });
}

}  // namespace octavo
