#include "core/model/family.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>

#include "core/base/error.h"

namespace octavo {
namespace {

v1::ModelSpec Llama() {
  v1::ModelSpec spec;
  spec.set_family("llama");
  spec.set_hidden_size(64);
  spec.set_intermediate_size(96);
  spec.set_layer_count(3);
  spec.set_head_count(4);
  spec.set_kv_head_count(2);
  spec.set_head_dim(32);  // free: not hidden / heads
  spec.set_vocab_size(100);
  spec.set_max_position(128);
  return spec;
}

TEST(FamilyTest, LooksUpByNameAndModelType) {
  ASSERT_NE(FamilyByModelType("llama"), nullptr);
  EXPECT_EQ(FamilyByModelType("llama"), FamilyByName("llama"));
  EXPECT_EQ(FamilyByModelType("gpt2"), nullptr);
  EXPECT_THAT(FamilyNames(), testing::HasSubstr("llama"));
}

TEST(RoleOfTest, ReadsNames) {
  const v1::ModelSpec spec = Llama();
  struct Case {
    const char* name;
    v1::TensorRole role;
    int layer;
  };
  const Case cases[] = {
      {"model.embed_tokens.weight", v1::EMBEDDING, -1},
      {"lm_head.weight", v1::LM_HEAD, -1},
      {"model.norm.weight", v1::FINAL_NORM, -1},
      {"model.layers.0.input_layernorm.weight", v1::ATTENTION_NORM, 0},
      {"model.layers.12.post_attention_layernorm.weight", v1::MLP_NORM, 12},
      {"model.layers.7.self_attn.q_proj.weight", v1::Q_PROJ, 7},
      {"model.layers.7.self_attn.k_proj.weight", v1::K_PROJ, 7},
      {"model.layers.7.self_attn.v_proj.bias", v1::V_BIAS, 7},
      {"model.layers.999999.self_attn.o_proj.weight", v1::O_PROJ, 999999},
      {"model.layers.1.mlp.gate_proj.weight", v1::GATE_PROJ, 1},
      {"model.layers.1.mlp.up_proj.weight", v1::UP_PROJ, 1},
      {"model.layers.1.mlp.down_proj.weight", v1::DOWN_PROJ, 1},
      {"model.layers.1.self_attn.rotary_emb.inv_freq", v1::IGNORED, 1},
  };
  for (const Case& c : cases) {
    const auto place = RoleOf(c.name, spec);
    ASSERT_TRUE(place.has_value()) << c.name;
    EXPECT_EQ(place->role, c.role) << c.name;
    EXPECT_EQ(place->layer, c.layer) << c.name;
    EXPECT_EQ(place->expert, -1) << c.name;
  }
  for (const char* name :
       {"", "model.layers.weight", "model.layers.01.mlp.up_proj.weight",
        "model.layers.-1.mlp.up_proj.weight", "model.layers.1000000.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight2", "xmodel.norm.weight",
        "model.layers..mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight_scale"}) {
    EXPECT_FALSE(RoleOf(name, spec).has_value()) << name;
  }
  v1::ModelSpec unknown = spec;
  unknown.set_family("gpt2");
  EXPECT_FALSE(RoleOf("model.norm.weight", unknown).has_value());
}

TEST(RoleOfTest, HeadOfATiedModelIsIgnored) {
  v1::ModelSpec spec = Llama();
  spec.set_tied_embeddings(true);
  EXPECT_EQ(RoleOf("lm_head.weight", spec)->role, v1::IGNORED);
}

TEST(ExpectedTensorsTest, ListsTheModelInOrder) {
  const auto tensors = ExpectedTensors(Llama());
  ASSERT_TRUE(tensors.ok());
  ASSERT_EQ(tensors->size(), 1u + 3 * 9 + 2);
  EXPECT_EQ(tensors->front().name, "model.embed_tokens.weight");
  EXPECT_THAT(tensors->front().shape, testing::ElementsAre(100, 64));
  EXPECT_EQ(tensors->back().name, "lm_head.weight");
  EXPECT_EQ((*tensors)[2].name, "model.layers.0.self_attn.q_proj.weight");
  EXPECT_THAT((*tensors)[2].shape, testing::ElementsAre(128, 64));
  EXPECT_THAT((*tensors)[3].shape, testing::ElementsAre(64, 64));
  EXPECT_THAT((*tensors)[5].shape, testing::ElementsAre(64, 128));
  // Every name leads back to its row, and the keys to sort by ascend.
  const v1::ModelSpec spec = Llama();
  uint64_t last = 0;
  for (size_t i = 0; i < tensors->size(); ++i) {
    const ExpectedTensor& tensor = (*tensors)[i];
    const auto place = RoleOf(tensor.name, spec);
    ASSERT_TRUE(place.has_value()) << tensor.name;
    EXPECT_EQ(place->role, tensor.role);
    EXPECT_EQ(place->layer, tensor.layer);
    const uint64_t key = OrderKey(*place, *FamilyByName("llama"));
    if (i > 0) {
      EXPECT_GT(key, last) << tensor.name;
    }
    last = key;
  }
}

TEST(ExpectedTensorsTest, BiasesAndTies) {
  v1::ModelSpec spec = Llama();
  spec.set_attention_bias(true);
  spec.set_mlp_bias(true);
  spec.set_tied_embeddings(true);
  const auto tensors = ExpectedTensors(spec);
  ASSERT_TRUE(tensors.ok());
  EXPECT_EQ(tensors->size(), 1u + 3 * (9 + 4 + 3) + 1);
}

TEST(ExpectedTensorsTest, Qwen2HasBiasesOnInputsOfAttentionOnly) {
  v1::ModelSpec spec = Llama();
  spec.set_family("qwen2");
  spec.set_attention_bias(true);
  const auto tensors = ExpectedTensors(spec);
  ASSERT_TRUE(tensors.ok());
  EXPECT_EQ(tensors->size(), 1u + 3 * (9 + 3) + 2);
  EXPECT_TRUE(RoleOf("model.layers.0.self_attn.k_proj.bias", spec).has_value());
  EXPECT_FALSE(RoleOf("model.layers.0.self_attn.o_proj.bias", spec).has_value());
}

TEST(ExpectedTensorsTest, DbrxStacksItsExperts) {
  v1::ModelSpec spec = Llama();
  spec.set_family("dbrx");
  spec.set_expert_count(5);
  spec.set_experts_per_token(2);
  const auto tensors = ExpectedTensors(spec);
  ASSERT_TRUE(tensors.ok());
  EXPECT_EQ(tensors->size(), 1u + 3 * 8 + 2);
  const auto place = RoleOf("transformer.blocks.2.ffn.experts.mlp.w2", spec);
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->role, v1::STACKED_DOWN);
  EXPECT_THAT(ShapeOf(*place->row, spec), testing::ElementsAre(5 * 96, 64));
}

TEST(ExpectedTensorsTest, DbrxIsSpelledInSeveralWays) {
  v1::ModelSpec spec = Llama();
  spec.set_family("dbrx");
  spec.set_expert_count(5);
  spec.set_experts_per_token(2);
  const Family& family = *FamilyByName("dbrx");
  const struct {
    const char* name;
    int32_t spelling;
    size_t experts;  // tensors of one layer
  } cases[] = {{"transformer.blocks.0.ffn.experts.mlp.w1", 0, 3},
               {"transformer.blocks.0.ffn.experts.mlp.w1.weight", 1, 3},
               {"transformer.blocks.0.ffn.experts.mlp.4.w1.weight", 2, 15},
               {"transformer.blocks.0.ffn.experts.mlp_experts.4.w1.weight", 3, 15}};
  for (const auto& c : cases) {
    EXPECT_EQ(SpellingOf(c.name, family), c.spelling);
    spec.set_spelling(c.spelling);
    const auto tensors = ExpectedTensors(spec);
    ASSERT_TRUE(tensors.ok());
    EXPECT_EQ(tensors->size(), 1u + 3 * (5 + c.experts) + 2);
    EXPECT_TRUE(std::any_of(tensors->begin(), tensors->end(),
                            [&](const ExpectedTensor& t) { return t.name == c.name; }));
  }
  EXPECT_EQ(SpellingOf("transformer.wte.weight", family), 0);
}

TEST(ExpectedTensorsTest, Qwen3HasANormOfHeads) {
  v1::ModelSpec spec = Llama();
  spec.set_family("qwen3");
  const auto tensors = ExpectedTensors(spec);
  ASSERT_TRUE(tensors.ok());
  EXPECT_EQ(tensors->size(), 1u + 3 * 11 + 2);
  const auto place = RoleOf("model.layers.1.self_attn.k_norm.weight", spec);
  ASSERT_TRUE(place.has_value());
  EXPECT_THAT(ShapeOf(*place->row, spec), testing::ElementsAre(32));
}

TEST(FamilyTest, FactsThatConfigNeverSaysComeFromTheTable) {
  v1::ModelSpec spec;
  SetFamilyFacts(*FamilyByName("dbrx"), spec);
  EXPECT_TRUE(spec.layer_norm());
  spec.set_attention_bias(true);
  SetFamilyFacts(*FamilyByName("mixtral"), spec);
  EXPECT_FALSE(spec.layer_norm());
  EXPECT_FALSE(spec.attention_bias());
  EXPECT_TRUE(spec.normalized_experts());
  SetFamilyFacts(*FamilyByName("qwen2"), spec);
  EXPECT_TRUE(spec.attention_bias());
  EXPECT_FALSE(spec.normalized_experts());
}

// A mixture as a row of data: what a later family needs is there.
constexpr std::array kMixtureRows = {
    TensorRow{v1::EMBEDDING, "embed.weight", Dim::kVocab, Dim::kHidden},
    TensorRow{v1::ROUTER, "layers.{L}.moe.gate.weight", Dim::kExperts, Dim::kHidden},
    TensorRow{v1::EXPERT_GATE, "layers.{L}.moe.experts.{E}.w1.weight", Dim::kIntermediate,
              Dim::kHidden},
    TensorRow{v1::EXPERT_DOWN, "layers.{L}.moe.stacked", Dim::kAllExperts, Dim::kHidden},
    TensorRow{v1::Q_PROJ, "layers.{L}.qkv.weight", Dim::kFusedQkv, Dim::kHidden},
};

TEST(FamilyTest, RowsCanSayExperts) {
  const Family family{
      .name = "m", .model_type = "m", .architecture = "M", .rows = kMixtureRows, .keys = {}};
  v1::ModelSpec spec = Llama();
  spec.set_expert_count(8);
  const auto place = RoleOf("layers.2.moe.experts.7.w1.weight", family, spec);
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->layer, 2);
  EXPECT_EQ(place->expert, 7);
  EXPECT_EQ(TensorName(*place->row, 2, 7), "layers.2.moe.experts.7.w1.weight");
  EXPECT_THAT(ShapeOf(kMixtureRows[1], spec), testing::ElementsAre(8, 64));
  EXPECT_THAT(ShapeOf(kMixtureRows[3], spec), testing::ElementsAre(8 * 96, 64));
  EXPECT_THAT(ShapeOf(kMixtureRows[4], spec), testing::ElementsAre(8 * 32, 64));
  const auto next = RoleOf("layers.2.qkv.weight", family, spec);
  EXPECT_GT(OrderKey(*next, family), OrderKey(*place, family));
}

TEST(CheckSpecTest, BoundsEverySize) {
  EXPECT_TRUE(CheckSpec(Llama(), "config.json").ok());
  struct Case {
    const char* what;
    void (*change)(v1::ModelSpec&);
  };
  const Case cases[] = {
      {"hidden_size", [](v1::ModelSpec& s) { s.set_hidden_size(0); }},
      {"hidden_size", [](v1::ModelSpec& s) { s.set_hidden_size(int64_t{1} << 40); }},
      {"num_hidden_layers", [](v1::ModelSpec& s) { s.set_layer_count(1'000'000'000); }},
      {"num_hidden_layers", [](v1::ModelSpec& s) { s.set_layer_count(-1); }},
      {"num_key_value_heads", [](v1::ModelSpec& s) { s.set_kv_head_count(3); }},
      {"head_dim", [](v1::ModelSpec& s) { s.set_head_dim(33); }},
      {"vocab_size", [](v1::ModelSpec& s) { s.set_vocab_size(INT64_MAX); }},
      {"outside 0..0", [](v1::ModelSpec& s) { s.set_experts_per_token(2); }},
  };
  for (const Case& c : cases) {
    v1::ModelSpec spec = Llama();
    c.change(spec);
    const absl::Status status = CheckSpec(spec, "config.json");
    ASSERT_FALSE(status.ok()) << c.what;
    EXPECT_EQ(ReasonOf(status), Reason::kBadCheckpoint) << c.what;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(c.what));
  }
  v1::ModelSpec unknown = Llama();
  unknown.set_family("gpt2");
  EXPECT_EQ(ReasonOf(CheckSpec(unknown, "config.json")), Reason::kUnsupported);
  EXPECT_EQ(ReasonOf(ExpectedTensors(unknown).status()), Reason::kUnsupported);
}

}  // namespace
}  // namespace octavo
