#pragma once

// Writes small Llama checkpoints for tests: random weights, one or several shards.

#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "core/checkpoint/index.h"
#include "core/checkpoint/safetensors.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/dtype.h"
#include "fmt/format.h"

namespace octavo {

struct TinyLlama {
  int hidden = 64;
  int intermediate = 160;
  int layers = 2;
  int heads = 4;
  int kv_heads = 2;
  int vocab = 96;
  int shards = 1;
  bool tied = true;
  DType dtype = DType::kBF16;
  uint32_t seed = 1;
};

inline std::string ReadText(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void WriteText(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline void AppendValue(DType dtype, float value, std::string* out) {
  const uint32_t bits = dtype == DType::kBF16  ? Bf16FromF32(value)
                        : dtype == DType::kF16 ? F16FromF32(value)
                                               : BitsOf(value);
  out->append(reinterpret_cast<const char*>(&bits), static_cast<size_t>(ByteSize(dtype)));
}

inline void WriteTinyLlama(const TinyLlama& tiny, const std::filesystem::path& dir) {
  std::filesystem::create_directories(dir);
  const int kv = tiny.hidden / tiny.heads * tiny.kv_heads;
  std::vector<NewTensor> tensors;
  auto add = [&](std::string name, std::vector<int64_t> shape) {
    tensors.push_back({std::move(name), tiny.dtype, std::move(shape)});
  };
  add("model.embed_tokens.weight", {tiny.vocab, tiny.hidden});
  for (int layer = 0; layer < tiny.layers; ++layer) {
    const std::string at = fmt::format("model.layers.{}.", layer);
    add(at + "input_layernorm.weight", {tiny.hidden});
    add(at + "post_attention_layernorm.weight", {tiny.hidden});
    add(at + "self_attn.q_proj.weight", {tiny.hidden, tiny.hidden});
    add(at + "self_attn.k_proj.weight", {kv, tiny.hidden});
    add(at + "self_attn.v_proj.weight", {kv, tiny.hidden});
    add(at + "self_attn.o_proj.weight", {tiny.hidden, tiny.hidden});
    add(at + "mlp.gate_proj.weight", {tiny.intermediate, tiny.hidden});
    add(at + "mlp.up_proj.weight", {tiny.intermediate, tiny.hidden});
    add(at + "mlp.down_proj.weight", {tiny.hidden, tiny.intermediate});
  }
  add("model.norm.weight", {tiny.hidden});
  if (!tiny.tied) add("lm_head.weight", {tiny.vocab, tiny.hidden});

  std::mt19937 random(tiny.seed);
  TensorIndex index;
  for (int shard = 0; shard < tiny.shards; ++shard) {
    std::vector<NewTensor> inside;
    for (size_t i = shard; i < tensors.size(); i += tiny.shards) inside.push_back(tensors[i]);
    const std::string name = ShardName(shard + 1, tiny.shards);
    const BuiltHeader header = BuildHeader(inside, name);
    std::string bytes = header.bytes;
    for (const auto& spec : header.tensors) {
      index.weight_map[spec.name()] = name;
      index.total_size += spec.end() - spec.begin();
      const uint64_t count = (spec.end() - spec.begin()) / ByteSize(tiny.dtype);
      for (uint64_t i = 0; i < count; ++i) {
        // Sum of two uniforms: cheap, heavier in the middle, with spread magnitudes.
        const auto a = static_cast<float>(random() >> 8) * 0x1p-24f;
        const auto b = static_cast<float>(random() >> 8) * 0x1p-24f;
        AppendValue(tiny.dtype, (a + b - 1.0f) * 0.125f, &bytes);
      }
    }
    WriteText(dir / name, bytes);
  }
  if (tiny.shards > 1) WriteText(dir / std::string(kIndexFileName), BuildIndex(index));
  WriteText(dir / "config.json", fmt::format(R"({{
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "hidden_size": {},
  "intermediate_size": {},
  "num_hidden_layers": {},
  "num_attention_heads": {},
  "num_key_value_heads": {},
  "vocab_size": {},
  "rms_norm_eps": 1e-05,
  "hidden_act": "silu",
  "max_position_embeddings": 512,
  "x_unknown": {{"kept": true}},
  "tie_word_embeddings": {},
  "torch_dtype": "{}",
  "bos_token_id": 1,
  "eos_token_id": 2
}}
)",
                                             tiny.hidden, tiny.intermediate, tiny.layers,
                                             tiny.heads, tiny.kv_heads, tiny.vocab, tiny.tied,
                                             tiny.dtype == DType::kBF16  ? "bfloat16"
                                             : tiny.dtype == DType::kF16 ? "float16"
                                                                         : "float32"));
  WriteText(dir / "tokenizer.json", "{\"version\": \"1.0\"}\n");
  WriteText(dir / "README.md", "the source's own card\n");
}

// A fresh folder that is removed at the end.
class TestFolder {
 public:
  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "octavo-XXXXXX").native();
    path_ = mkdtemp(name.data());
  }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  std::string operator/(std::string_view name) const { return (path_ / name).native(); }

 private:
  std::filesystem::path path_;
};

}  // namespace octavo
