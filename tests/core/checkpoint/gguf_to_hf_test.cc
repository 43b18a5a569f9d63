#include "core/checkpoint/gguf_to_hf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "core/base/error.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/config_json.h"
#include "core/checkpoint/gguf_config.h"
#include "core/checkpoint/gguf_tokenizer.h"
#include "core/tensor/bare/float_bits.h"
#include "tests/core/checkpoint/gguf_maker.h"
#include "tests/fakes/faulty_store.h"
#include "tests/fakes/memory_store.h"

namespace octavo {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// A whole model of one layer: hidden 32, two heads of 16, one KV head; F32 but where `types` says
// otherwise. Element i of every tensor has the value i / 8, so that rows can be told apart after
// their reordering.
struct Model {
  std::map<std::string, uint32_t> types;
  std::map<std::string, std::string> data;
  std::vector<std::string> tokens = {"<|end|>", "a", "b", "ab", "<user>"};
  std::vector<std::string> merges = {"a b"};
  std::vector<int32_t> token_types = {3, 1, 1, 1, 4};
  std::string pre = "smollm";
  std::string architecture = "llama";
  std::string tokenizer = "gpt2";
  void (*extra)(GgufMaker&) = [](GgufMaker&) {};

  std::string Make() const {
    GgufMaker m;
    m.String("general.architecture", architecture);
    m.U32("llama.block_count", 1);
    m.U32("llama.context_length", 64);
    m.U32("llama.embedding_length", 32);
    m.U32("llama.feed_forward_length", 64);
    m.U32("llama.attention.head_count", 2);
    m.U32("llama.attention.head_count_kv", 1);
    m.F32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
    m.F32("llama.rope.freq_base", 100000.0f);
    m.String("tokenizer.ggml.model", tokenizer);
    m.String("tokenizer.ggml.pre", pre);
    m.Strings("tokenizer.ggml.tokens", tokens);
    m.I32s("tokenizer.ggml.token_type", token_types);
    m.Strings("tokenizer.ggml.merges", merges);
    m.U32("tokenizer.ggml.eos_token_id", 0);
    m.String("tokenizer.chat_template", "{{ messages }}");
    Put(m, "token_embd.weight", {32, 5});
    Put(m, "output_norm.weight", {32});
    Put(m, "blk.0.attn_norm.weight", {32});
    Put(m, "blk.0.ffn_norm.weight", {32});
    Put(m, "blk.0.attn_q.weight", {32, 32});
    Put(m, "blk.0.attn_k.weight", {32, 16});
    Put(m, "blk.0.attn_v.weight", {32, 16});
    Put(m, "blk.0.attn_output.weight", {32, 32});
    Put(m, "blk.0.ffn_gate.weight", {32, 64});
    Put(m, "blk.0.ffn_up.weight", {32, 64});
    Put(m, "blk.0.ffn_down.weight", {64, 32});
    extra(m);
    return m.File();
  }
  void Put(GgufMaker& m, const std::string& name, const std::vector<uint64_t>& dims) const {
    const uint64_t elements = dims[0] * (dims.size() > 1 ? dims[1] : 1);
    const auto type = types.find(name);
    const uint32_t id = type == types.end() ? 0 : type->second;
    std::string bytes(GgmlBytes(id, elements).value_or(0), '\0');
    if (id == 0) {
      for (uint64_t i = 0; i < elements; ++i) {
        const float value = static_cast<float>(i) / 8.0f;
        std::memcpy(bytes.data() + 4 * i, &value, 4);
      }
    }
    const auto given = data.find(name);
    m.Tensor(name, dims, id, given == data.end() ? bytes : given->second);
  }

  MemoryStore store;
  absl::StatusOr<ImportSummary> Import() {
    store.Put("m.gguf", Make());
    return ImportGguf(store, "m.gguf", "out");
  }
  std::vector<float> Weights(const std::string& name) {
    const auto checkpoint = OpenCheckpoint(store, "out", Accept::kPlainOnly);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    std::vector<float> out;
    for (const v1::ModelTensor& tensor : checkpoint->tensors) {
      if (tensor.spec().name() != name) continue;
      const std::string& file = store.Get("out/" + tensor.spec().file());
      for (uint64_t at = tensor.spec().begin(); at < tensor.spec().end(); at += 2) {
        uint16_t bits;
        std::memcpy(&bits, file.data() + at, 2);
        out.push_back(F32FromBf16(bits));
      }
    }
    return out;
  }
};

float AsBf16(float value) { return F32FromBf16(Bf16FromF32(value)); }

TEST(ImportGgufTest, WritesACheckpointThatOpens) {
  Model model;
  const auto summary = model.Import();
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->tensors, 11u);
  const auto checkpoint = OpenCheckpoint(model.store, "out", Accept::kPlainOnly);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(checkpoint->model.tied_embeddings());
  EXPECT_EQ(checkpoint->model.norm_eps(), 1e-5);  // the decimal that was meant, not its F32
  EXPECT_EQ(checkpoint->model.rope_theta(), 1e5);
  EXPECT_EQ(checkpoint->model.head_dim(), 16);
  EXPECT_THAT(checkpoint->model.eos_token_ids(), ElementsAre(0));
  EXPECT_EQ(checkpoint->model.bos_token_id(), -1);
  EXPECT_THAT(checkpoint->side_files,
              ElementsAre("generation_config.json", "special_tokens_map.json", "tokenizer.json",
                          "tokenizer_config.json"));
  // Only finished folders bear the name, and nothing is left beside it.
  EXPECT_EQ(model.store.List("out")->size(), 6u);
  EXPECT_EQ(ReasonOf(model.Import().status()), Reason::kOutputExists);
}

TEST(ImportGgufTest, UndoesTheInterleavingOfHeads) {
  Model model;
  ASSERT_TRUE(model.Import().ok());
  for (const auto& [name, rows] : {std::pair{"q", 32}, std::pair{"k", 16}}) {
    const auto values =
        model.Weights(std::string("model.layers.0.self_attn.") + name + "_proj.weight");
    ASSERT_EQ(values.size(), static_cast<size_t>(rows * 32));
    for (int row = 0; row < rows; ++row) {
      // HF row h*D + p*D/2 + i is GGUF row h*D + 2i + p.
      const int in_head = row % 16, p = in_head / 8, i = in_head % 8;
      const int from = row / 16 * 16 + 2 * i + p;
      for (int c = 0; c < 32; ++c) {
        ASSERT_EQ(values[static_cast<size_t>(row * 32 + c)],
                  AsBf16(static_cast<float>(from * 32 + c) / 8.0f));
      }
    }
  }
  const auto v = model.Weights("model.layers.0.self_attn.v_proj.weight");
  EXPECT_EQ(v[33], AsBf16(33.0f / 8.0f));
}

TEST(ImportGgufTest, TakesEveryTypeItNames) {
  for (uint32_t type : {1u, 2u, 3u, 8u, 30u}) {
    Model model;
    model.types["blk.0.attn_q.weight"] = type;
    model.types["token_embd.weight"] = type;
    EXPECT_TRUE(model.Import().ok()) << type;
  }
  Model model;
  model.types["blk.0.ffn_up.weight"] = 6;
  const auto summary = model.Import();
  EXPECT_EQ(ReasonOf(summary.status()), Reason::kUnsupported);
  EXPECT_THAT(std::string(summary.status().message()), HasSubstr("Q5_0"));
  EXPECT_THAT(std::string(summary.status().message()), HasSubstr("blk.0.ffn_up.weight"));
}

TEST(ImportGgufTest, RefusesWhatItCannotImport) {
  struct Case {
    const char* what;
    Reason reason;
    void (*bend)(Model&);
  };
  const Case cases[] = {
      {"architecture \"qwen2\"", Reason::kUnsupported, [](Model& m) { m.architecture = "qwen2"; }},
      {"tokenizer model \"llama\"", Reason::kUnsupported, [](Model& m) { m.tokenizer = "llama"; }},
      {"pre \"falcon\"", Reason::kUnsupported, [](Model& m) { m.pre = "falcon"; }},
      {"are the same", Reason::kBadCheckpoint, [](Model& m) { m.tokens[1] = "b"; }},
      {"no UTF-8", Reason::kBadCheckpoint, [](Model& m) { m.tokens[1] = "\xff"; }},
      {"token types", Reason::kBadCheckpoint, [](Model& m) { m.token_types.pop_back(); }},
      {"unknown token", Reason::kBadCheckpoint, [](Model& m) { m.merges = {"a c"}; }},
      {"no pair", Reason::kBadCheckpoint, [](Model& m) { m.merges = {"ab"}; }},
      {"no pair", Reason::kBadCheckpoint, [](Model& m) { m.merges = {"a b c"}; }},
      {"no place", Reason::kUnsupported,
       [](Model& m) {
         m.extra = [](GgufMaker& g) { g.Tensor("v.blk.0.w", {8}, 0, std::string(32, '\0')); };
       }},
      {"no token", Reason::kBadCheckpoint,
       [](Model& m) { m.extra = [](GgufMaker& g) { g.U32("tokenizer.ggml.eot_token_id", 99); }; }},
      {"mixtures", Reason::kUnsupported,
       [](Model& m) { m.extra = [](GgufMaker& g) { g.U32("llama.expert_count", 8); }; }},
      {"yarn", Reason::kUnsupported,
       [](Model& m) {
         m.extra = [](GgufMaker& g) { g.String("llama.rope.scaling.type", "yarn"); };
       }},
      {"rotated", Reason::kUnsupported,
       [](Model& m) { m.extra = [](GgufMaker& g) { g.U32("llama.rope.dimension_count", 8); }; }},
      {"NaN", Reason::kNonFinite,
       [](Model& m) {
         m.data["blk.0.ffn_down.weight"] = std::string(64 * 32 * 4 - 4, '\0') + GgufMaker::Raw(NAN);
       }},
  };
  for (const Case& c : cases) {
    Model model;
    c.bend(model);
    const auto summary = model.Import();
    ASSERT_FALSE(summary.ok()) << c.what;
    EXPECT_EQ(ReasonOf(summary.status()), c.reason) << summary.status();
    EXPECT_THAT(std::string(summary.status().message()), HasSubstr(c.what));
    EXPECT_EQ(model.store.file_count(), 1u) << "something stays behind: " << c.what;
  }
}

TEST(ImportGgufTest, FailedWritesLeaveNothing) {
  for (int nth = 1; nth <= 17; nth += 4) {
    Model model;
    model.store.Put("m.gguf", model.Make());
    FaultyStore store(&model.store);
    store.FailAt(FaultyStore::Call::kWrite, nth, Reason::kDiskFull);
    const auto summary = ImportGguf(store, "m.gguf", "out");
    ASSERT_EQ(store.failures(), 1) << nth;
    EXPECT_EQ(ReasonOf(summary.status()), Reason::kDiskFull);
    EXPECT_EQ(model.store.file_count(), 1u);
  }
}

TEST(RopeScalingFromFactorsTest, RecognizesLlama31) {
  v1::ModelSpec spec;
  spec.set_head_dim(128);
  spec.set_rope_theta(500000.0);
  std::vector<float> factors(64);
  for (size_t i = 0; i < 64; ++i) {
    const double wave = 2 * std::numbers::pi * std::pow(5e5, static_cast<double>(i) / 64.0);
    const double smooth = (8192.0 / wave - 1.0) / 3.0;
    factors[i] = static_cast<float>(wave > 8192       ? 32.0
                                    : wave < 8192 / 4 ? 1.0
                                                      : 1.0 / ((1 - smooth) / 32.0 + smooth));
  }
  const auto scaling = RopeScalingFromFactors(factors, spec);
  ASSERT_TRUE(scaling.ok()) << scaling.status();
  EXPECT_EQ(scaling->type(), "llama3");
  EXPECT_EQ(scaling->factor(), 32.0);
  EXPECT_EQ(scaling->original_max_position(), 8192);
  factors[40] *= 1.1f;
  EXPECT_EQ(ReasonOf(RopeScalingFromFactors(factors, spec).status()), Reason::kUnsupported);
}

TEST(GgufTokenizerTest, WritesTheRightPreTokenizer) {
  const std::pair<const char*, const char*> cases[] = {{"smollm", "individual_digits"},
                                                       {"llama-bpe", "{1,3}"},
                                                       {"qwen2", "NFC"},
                                                       {"default", "ByteLevel"}};
  for (const auto& [pre, mark] : cases) {
    Model model;
    model.pre = pre;
    ASSERT_TRUE(model.Import().ok()) << pre;
    const std::string& text = model.store.Get("out/tokenizer.json");
    EXPECT_THAT(text, HasSubstr(mark)) << pre;
    const auto json = ParseJsonObject(text, "tokenizer.json");
    ASSERT_TRUE(json.ok()) << json.status();
    EXPECT_EQ((*json)["model"]["vocab"]["ab"], 3);
    EXPECT_EQ((*json)["model"]["merges"][0], "a b");
    EXPECT_EQ((*json)["added_tokens"].size(), 2u);
    EXPECT_EQ((*json)["added_tokens"][0]["special"], true);
    EXPECT_EQ((*json)["added_tokens"][1]["special"], false);
    EXPECT_TRUE((*json)["post_processor"].is_null());
  }
}

TEST(GgufTokenizerTest, BosGoesIntoThePostProcessor) {
  Model model;
  model.pre = "llama-bpe";
  model.extra = [](GgufMaker& g) { g.U32("tokenizer.ggml.bos_token_id", 0); };
  ASSERT_TRUE(model.Import().ok());
  const auto json = ParseJsonObject(model.store.Get("out/tokenizer.json"), "t");
  EXPECT_EQ((*json)["post_processor"]["special_tokens"]["<|end|>"]["ids"][0], 0);
  EXPECT_EQ((*json)["model"]["ignore_merges"], true);
  const auto config = ParseJsonObject(model.store.Get("out/tokenizer_config.json"), "t");
  EXPECT_EQ((*config)["bos_token"], "<|end|>");
  EXPECT_EQ((*config)["eos_token"], "<|end|>");
  EXPECT_EQ((*config)["chat_template"], "{{ messages }}");
  EXPECT_EQ((*config)["added_tokens_decoder"]["4"]["content"], "<user>");
}

TEST(ByteCharacterTest, IsGpt2sAlphabet) {
  EXPECT_EQ(ByteCharacter('A'), "A");
  EXPECT_EQ(ByteCharacter(' '), "\xc4\xa0");   // U+0120
  EXPECT_EQ(ByteCharacter('\n'), "\xc4\x8a");  // U+010A
  EXPECT_EQ(ByteCharacter(0), "\xc4\x80");     // U+0100
  EXPECT_EQ(ByteCharacter(0xad), "\xc5\x83");  // U+0143, the last of them
  EXPECT_EQ(ByteCharacter(0xff), "\xc3\xbf");
}

}  // namespace
}  // namespace octavo
