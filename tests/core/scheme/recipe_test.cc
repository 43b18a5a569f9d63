#include "core/scheme/recipe.h"

#include "core/base/error.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "tests/core/scheme/named_tensor.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

bool Equal(const v1::Recipe& a, const v1::Recipe& b) {
  return google::protobuf::util::MessageDifferencer::Equals(a, b);
}

std::vector<v1::ModelTensor> TwoLayers() {
  std::vector<v1::ModelTensor> tensors = {Tensor("model.embed_tokens.weight", v1::EMBEDDING, -1)};
  const std::pair<std::string, v1::TensorRole> parts[] = {{"input_layernorm", v1::ATTENTION_NORM},
                                                          {"self_attn.q_proj", v1::Q_PROJ},
                                                          {"self_attn.k_proj", v1::K_PROJ},
                                                          {"self_attn.v_proj", v1::V_PROJ},
                                                          {"self_attn.o_proj", v1::O_PROJ},
                                                          {"mlp.gate_proj", v1::GATE_PROJ},
                                                          {"mlp.up_proj", v1::UP_PROJ},
                                                          {"mlp.down_proj", v1::DOWN_PROJ}};
  for (int layer = 0; layer < 2; ++layer) {
    for (const auto& [name, role] : parts) {
      tensors.push_back(
          Tensor("model.layers." + std::to_string(layer) + "." + name + ".weight", role, layer));
    }
  }
  tensors.push_back(Tensor("lm_head.weight", v1::LM_HEAD, -1));
  return tensors;
}

std::string Message(std::string_view yaml) {
  const auto recipe = ParseRecipe(yaml, "r.yaml");
  if (recipe.ok()) return "parsed";
  EXPECT_EQ(ReasonOf(recipe.status()), Reason::kBadRecipe);
  return std::string(recipe.status().message());
}

TEST(Preset, PresetsParseAndRoundTrip) {
  EXPECT_EQ(PresetNames().size(), 12u);
  EXPECT_EQ(PresetNames()[0], "fp8-dynamic");
  for (const std::string_view name : PresetNames()) {
    const auto recipe = Preset(name);
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    EXPECT_EQ(recipe->name(), name);
    EXPECT_FALSE(recipe->description().empty());
    const auto again = ParseRecipe(RecipeYaml(*recipe), "again");
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(Equal(*recipe, *again)) << RecipeYaml(*recipe);
  }
  EXPECT_EQ(ReasonOf(Preset("fp9").status()), Reason::kNotFound);
}

TEST(Preset, SaysWhatItIs) {
  EXPECT_EQ(SchemeText(Preset("fp8-dynamic")->rules(0).scheme()),
            "FP8 channel / FP8 token dynamic");
  EXPECT_EQ(SchemeText(Preset("fp8-weight-only")->rules(0).scheme()), "FP8 channel weights only");
  EXPECT_EQ(SchemeText(Preset("fp8-block")->rules(0).scheme()),
            "FP8 block 128x128 / FP8 group 128 dynamic");
  EXPECT_EQ(SchemeText(Preset("int8-dynamic")->rules(0).scheme()),
            "INT8 channel / INT8 token dynamic");
  EXPECT_EQ(SchemeText(Preset("fp8-static")->rules(0).scheme()), "FP8 tensor / FP8 tensor static");
}

TEST(Preset, StaticOnesSayWhatTheyCalibrateWith) {
  const v1::Recipe mixtral = *Preset("fp8-static");
  EXPECT_EQ(mixtral.dialect(), "fp8");
  EXPECT_TRUE(HasStaticInput(mixtral.rules(0).scheme()));
  EXPECT_FALSE(mixtral.has_kv_cache());
  EXPECT_EQ(mixtral.calibration().observer(), v1::OBSERVER_ABSMAX);
  EXPECT_EQ(mixtral.calibration().samples(), 512u);
  EXPECT_EQ(mixtral.calibration().sample_length(), 4096u);
  const v1::Recipe dbrx = *Preset("fp8-static-kv");
  EXPECT_EQ(dbrx.kv_cache().type(), v1::NUMERIC_FP8_E4M3);
  EXPECT_EQ(dbrx.kv_cache().granularity(), v1::PER_TENSOR);
  EXPECT_FALSE(dbrx.kv_cache().dynamic());
  EXPECT_EQ(dbrx.calibration().samples(), 128u);
  EXPECT_EQ(dbrx.calibration().sample_length(), 512u);
  EXPECT_FALSE(HasStaticInput(Preset("fp8-dynamic")->rules(0).scheme()));
  EXPECT_FALSE(HasStaticInput(Preset("fp8-weight-only")->rules(0).scheme()));
}

TEST(Recipe, CustomRoundTrip) {
  const auto recipe = ParseRecipe(R"(
name: mine
description: 'quotes " and \ and ünïcödé: # no comment'
rules:
  - {name: "model.layers.0.*", weight: keep}
  - roles: [down_proj, o_proj]
    weight: {type: fp8, scale: tensor}
    algorithm: mse
  - weight: {scale: channel, type: int8}
    input: {type: int8, scale: token}
)",
                                  "mine.yaml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->rules_size(), 3);
  EXPECT_EQ(recipe->rules(1).algorithm(), v1::MSE);
  EXPECT_EQ(recipe->rules(2).algorithm(), v1::ABSMAX);
  EXPECT_TRUE(recipe->rules(2).scheme().input().dynamic());
  const auto again = ParseRecipe(RecipeYaml(*recipe), "again");
  ASSERT_TRUE(again.ok()) << again.status() << RecipeYaml(*recipe);
  EXPECT_TRUE(Equal(*recipe, *again)) << RecipeYaml(*recipe);
}

TEST(Recipe, StorageIsDenseUnlessAsked) {
  const std::string rules = "rules:\n  - weight: {type: fp8, scale: channel}\n";
  EXPECT_EQ(ParseRecipe("name: a\n" + rules, "r")->storage(), v1::STORAGE_DENSE);
  EXPECT_EQ(RecipeYaml(*ParseRecipe("name: a\nstorage: dense\n" + rules, "r")).find("storage"),
            std::string::npos);
  const auto recipe = ParseRecipe("name: a\nstorage: sparse-24-bitmask\n" + rules, "r");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->storage(), v1::STORAGE_SPARSE_24_BITMASK);
  const auto again = ParseRecipe(RecipeYaml(*recipe), "again");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(Equal(*recipe, *again)) << RecipeYaml(*recipe);
  EXPECT_THAT(Message("name: a\nstorage: marlin-24\n" + rules), HasSubstr("r.yaml:2"));
  EXPECT_THAT(Message("name: a\ndialect: fp8\nstorage: sparse-24-bitmask\n"
                      "rules:\n  - {weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: "
                      "token}}\n"),
              HasSubstr("the dialect fp8 has no storage sparse-24-bitmask"));
}

TEST(Recipe, ErrorsNameTheLine) {
  EXPECT_THAT(Message("name: a\nrules:\n  - weight: keep\n    colour: red\n"),
              HasSubstr("r.yaml:4: unknown key in a rule"));
  EXPECT_THAT(Message("name: a\nspeed: 3\nrules: []\n"), HasSubstr("r.yaml:2: unknown key"));
  EXPECT_THAT(Message("name: a\nname: b\nrules: []\n"), HasSubstr("r.yaml:2: key 'name' appears"));
  EXPECT_THAT(Message("name: a\nrules: []\n"), HasSubstr("r.yaml:2: rules must be a list"));
  EXPECT_THAT(Message("name: a\nrules:\n  - weight: {type: fp4, scale: channel}\n"),
              HasSubstr("r.yaml:3: type 'fp4' is not known"));
  EXPECT_THAT(Message("name: a\nrules:\n  - weight: {type: fp8, scale: token}\n"),
              HasSubstr("r.yaml:3: 'token' is not a scale of weight"));
  EXPECT_THAT(Message("name: a\nrules:\n  - roles: [embedding]\n    weight: keep\n"),
              HasSubstr("r.yaml:3: 'embedding' is not a role that rules can match"));
  EXPECT_THAT(Message("name: a\nrules:\n\n  - weight: {type: fp8, scale: block}\n"),
              HasSubstr("r.yaml:4: 'block' goes with scale: block"));
  EXPECT_THAT(Message("name: [\n"), HasSubstr("not YAML"));
  EXPECT_THAT(Message("name: a\nrules:\n  - input: none\n"),
              HasSubstr("r.yaml:3: a rule lacks the key 'weight'"));
  EXPECT_THAT(Message("name: a/b\nrules: [{weight: keep}]\n"),
              HasSubstr("r.yaml:1: name may hold"));
  EXPECT_THAT(Message("name: \"a\\0b\"\nrules: [{weight: keep}]\n"), HasSubstr("r.yaml:1: name"));
  EXPECT_THAT(Message("- a\n- b\n"), HasSubstr("r.yaml:1: a recipe must be a mapping"));
  EXPECT_THAT(Message(""), HasSubstr("exactly one YAML document"));
  EXPECT_THAT(Message("name: a\n---\nname: b\n"), HasSubstr("exactly one YAML document"));
}

TEST(Recipe, HostileInputIsBounded) {
  EXPECT_THAT(Message(std::string(70'000, '#')), HasSubstr("at most 65536 bytes"));
  EXPECT_THAT(Message("name: " + std::string(30'000, '[')), HasSubstr("r.yaml"));
  EXPECT_THAT(Message(",,,,\n"), HasSubstr("exactly one YAML document"));
  EXPECT_THAT(Message("name: &x a\nrules: *x\n"), HasSubstr("r.yaml:2: not YAML: aliases"));
  EXPECT_THAT(Message("\n[[[[[[[[[1]]]]]]]]]\n"), HasSubstr("r.yaml:2: not YAML: it is nested"));
  std::string rules = "name: a\nrules:\n";
  for (int i = 0; i < 257; ++i) rules += "  - weight: keep\n";
  EXPECT_THAT(Message(rules), HasSubstr("1 to 256 rules"));
}

TEST(Recipe, IllegalSchemesSayWhy) {
  auto rule = [](std::string_view weight, std::string_view input) {
    return "name: a\nrules:\n  - weight: " + std::string(weight) +
           "\n    input: " + std::string(input) + "\n";
  };
  EXPECT_THAT(Message(rule("{type: fp8, scale: channel}", "{type: int8, scale: token}")),
              HasSubstr("r.yaml:3: FP8 channel / INT8 token dynamic is not possible: readers have "
                        "no product of mixed types"));
  EXPECT_THAT(Message(rule("{type: int8, scale: channel}", "none")), HasSubstr("stored packed"));
  EXPECT_THAT(Message(rule("{type: int8, scale: tensor}", "{type: int8, scale: token}")),
              HasSubstr("INT8 takes scale: channel"));
  EXPECT_THAT(Message(rule("{type: fp8, scale: block, block: [64, 64]}",
                           "{type: fp8, scale: group, group: 128}")),
              HasSubstr("128 x 128 only"));
  EXPECT_THAT(Message(rule("{type: fp8, scale: block, block: [128, 128]}", "none")),
              HasSubstr("block scales take inputs"));
  EXPECT_EQ(Message(rule("{type: fp8, scale: tensor}", "{type: fp8, scale: token}")), "parsed");
}

TEST(Resolve, EmbeddingHeadAndNormsStay) {
  const auto tensors = TwoLayers();
  const auto recipe = Preset("fp8-dynamic");
  const auto schemes = ResolveSchemes(*recipe, tensors);
  ASSERT_TRUE(schemes.ok()) << schemes.status();
  int quantized = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ((*schemes)[i].scheme != nullptr, IsQuantizable(tensors[i].role()))
        << tensors[i].spec().name();
    quantized += (*schemes)[i].scheme != nullptr;
  }
  EXPECT_EQ(quantized, 14);
}

TEST(Resolve, FirstMatchWins) {
  const auto recipe = ParseRecipe(R"(
name: mixed
rules:
  - {name: "model.layers.1.*", weight: keep}
  - {roles: [down_proj], name: "*.layers.0.*", weight: {type: fp8, scale: tensor}, algorithm: mse}
  - {weight: {type: fp8, scale: channel}}
)",
                                  "mixed");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto tensors = TwoLayers();
  const auto schemes = ResolveSchemes(*recipe, tensors);
  ASSERT_TRUE(schemes.ok()) << schemes.status();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const v1::Scheme* want = nullptr;
    if (IsQuantizable(tensors[i].role()) && tensors[i].layer() == 0) {
      want = &recipe->rules(tensors[i].role() == v1::DOWN_PROJ ? 1 : 2).scheme();
    }
    EXPECT_EQ((*schemes)[i].scheme, want) << tensors[i].spec().name();
  }
}

TEST(Resolve, FusedGroupsMustAgree) {
  const auto recipe = ParseRecipe(
      "name: a\nrules:\n  - {roles: [k_proj], weight: keep}\n  - {weight: {type: fp8, scale: "
      "channel}}\n",
      "a");
  const auto schemes = ResolveSchemes(*recipe, TwoLayers());
  ASSERT_FALSE(schemes.ok());
  EXPECT_EQ(ReasonOf(schemes.status()), Reason::kBadRecipe);
  EXPECT_THAT(std::string(schemes.status().message()),
              HasSubstr("model.layers.0.self_attn.q_proj and model.layers.0.self_attn.k_proj"));
}

TEST(Resolve, ExpertsRefuseWeightOnly) {
  auto tensor = Tensor("model.layers.0.block_sparse_moe.experts.3.w1.weight", v1::EXPERT_GATE, 0);
  tensor.set_expert(3);
  const std::vector<v1::ModelTensor> tensors = {tensor};
  const auto refused_recipe = Preset("fp8-weight-only");
  const auto refused = ResolveSchemes(*refused_recipe, tensors);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("expert kernel"));
  const auto taken_recipe = Preset("fp8-dynamic");
  EXPECT_TRUE(ResolveSchemes(*taken_recipe, tensors).ok());
}

TEST(Resolve, WeightOnlyGivesExpertsInputsPerToken) {
  std::vector<v1::ModelTensor> tensors = TwoLayers();
  const v1::Recipe recipe = *Preset("fp8-weight-only");
  EXPECT_EQ(RecipeFor(recipe, tensors).SerializeAsString(), recipe.SerializeAsString());
  for (const auto role : {v1::EXPERT_GATE, v1::EXPERT_UP, v1::EXPERT_DOWN}) {
    tensors.push_back(
        Tensor(fmt::format("model.layers.0.experts.0.{}.weight", RoleName(role)), role, 0));
  }
  const v1::Recipe carried_out = RecipeFor(recipe, tensors);
  const auto schemes = ResolveSchemes(carried_out, tensors);
  ASSERT_TRUE(schemes.ok()) << schemes.status();
  const std::string dynamic = Preset("fp8-dynamic")->rules(0).scheme().SerializeAsString();
  int experts = 0;
  int dense = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if ((*schemes)[i].scheme == nullptr) continue;
    const bool is_expert = i + 3 >= tensors.size();
    ++(is_expert ? experts : dense);
    EXPECT_EQ((*schemes)[i].scheme->SerializeAsString() == dynamic, is_expert);
    EXPECT_EQ((*schemes)[i].scheme->has_input(), is_expert);
  }
  EXPECT_EQ(experts, 3);
  EXPECT_EQ(dense, 14);
  // A rule for dense layers alone stays as it is, and so does one of another scheme.
  v1::Recipe dense_only = recipe;
  dense_only.mutable_rules(0)->add_roles(v1::Q_PROJ);
  EXPECT_EQ(RecipeFor(dense_only, tensors).rules_size(), 1);
  EXPECT_EQ(RecipeFor(*Preset("int8-dynamic"), tensors).rules_size(), 1);
}

TEST(Recipe, CoverageNotNamedDependsOnTheSolver) {
  v1::ModelSpec model;
  model.set_hidden_size(4096);
  model.set_intermediate_size(14336);
  EXPECT_EQ(ExpertQuotaDefault(*Preset("fp8-static"), model), 512);
  EXPECT_EQ(ExpertQuotaDefault(*Preset("int8-smoothquant"), model), 512);
  EXPECT_EQ(ExpertQuotaDefault(*Preset("int8-w8a8-gptq"), model), 4 * 14336);
}

TEST(Resolve, StackedExpertsAreKeptOrRefused) {
  const std::vector<v1::ModelTensor> tensors = {
      Tensor("transformer.blocks.0.norm_attn_norm.attn.Wqkv.weight", v1::FUSED_QKV, 0),
      Tensor("transformer.blocks.0.ffn.experts.mlp.w2", v1::STACKED_DOWN, 0)};
  const auto preset = Preset("fp8-dynamic");
  const auto refused = ResolveSchemes(*preset, tensors);
  EXPECT_EQ(ReasonOf(refused.status()), Reason::kBadRecipe);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("experts.mlp.w2"));
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("fp8 has one per expert"));
  const auto taken_preset = Preset("fp8-static");
  const auto taken = ResolveSchemes(*taken_preset, tensors);
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_NE((*taken)[1].scheme, nullptr);
  const auto recipe = ParseRecipe(
      "name: a\ndialect: compressed-tensors\nrules:\n"
      "  - {roles: [expert_gate, expert_up, expert_down], weight: keep}\n"
      "  - {roles: [q_proj, k_proj, v_proj], weight: {type: fp8, scale: channel}}\n",
      "a");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto schemes = ResolveSchemes(*recipe, tensors);
  ASSERT_TRUE(schemes.ok()) << schemes.status();
  EXPECT_NE((*schemes)[0].scheme, nullptr);
  EXPECT_EQ((*schemes)[1].scheme, nullptr);
}

TEST(Resolve, QuarkHasACacheOnlyBesideQuantizedKeysAndValues) {
  v1::Recipe recipe = *Preset("fp8-static-kv");
  recipe.set_dialect("quark");
  EXPECT_TRUE(ResolveSchemes(recipe, TwoLayers()).ok());
  const std::vector<v1::ModelTensor> fused = {
      Tensor("transformer.blocks.0.norm_attn_norm.attn.Wqkv.weight", v1::FUSED_QKV, 0)};
  EXPECT_THAT(std::string(ResolveSchemes(recipe, fused).status().message()),
              HasSubstr("attn.Wqkv: no reader of the dialect quark"));
  v1::Rule keep;
  for (const auto role : {v1::Q_PROJ, v1::K_PROJ, v1::V_PROJ}) keep.add_roles(role);
  keep.mutable_scheme()->mutable_weight()->set_type(v1::NUMERIC_KEEP);
  *recipe.add_rules() = recipe.rules(0);
  *recipe.mutable_rules(0) = keep;
  const auto kept = ResolveSchemes(recipe, TwoLayers());
  EXPECT_EQ(ReasonOf(kept.status()), Reason::kBadRecipe);
  EXPECT_THAT(std::string(kept.status().message()), HasSubstr("self_attn.k_proj: the dialect"));
  recipe.set_dialect("fp8");
  EXPECT_TRUE(ResolveSchemes(recipe, TwoLayers()).ok());
  EXPECT_TRUE(ResolveSchemes(recipe, fused).ok());
}

TEST(Glob, MatchesWholeText) {
  EXPECT_TRUE(GlobMatches("*", ""));
  EXPECT_TRUE(GlobMatches("model.*.q_proj", "model.layers.3.q_proj"));
  EXPECT_FALSE(GlobMatches("model.*.q_proj", "model.layers.3.q_proj.x"));
  EXPECT_TRUE(GlobMatches("a?c*", "abcdef"));
  EXPECT_FALSE(GlobMatches("a?c", "ac"));
  EXPECT_TRUE(GlobMatches("*a*b*", "xxaxxbxx"));
  EXPECT_FALSE(GlobMatches("", "x"));
  EXPECT_FALSE(GlobMatches(std::string(200, '*') + "y", std::string(5000, 'x')));
}

}  // namespace
}  // namespace octavo
