// An eight-bit output head: who asks for it, and who may have it.

#include "core/base/error.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/scheme/named_tensor.h"

namespace octavo {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kLayers[] = "  - {weight: {type: fp8, scale: channel}}\n";

std::vector<v1::ModelTensor> Model() {
  return {Tensor("model.embed_tokens.weight", v1::EMBEDDING, -1),
          Tensor("model.layers.0.mlp.down_proj.weight", v1::DOWN_PROJ, 0),
          Tensor("lm_head.weight", v1::LM_HEAD, -1)};
}

v1::Recipe Custom(const std::string& rules) {
  const auto recipe = ParseRecipe("name: custom\nrules:\n" + rules, "r.yaml");
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return recipe.ok() ? *recipe : v1::Recipe();
}

std::string Message(const std::string& rules, const std::string& rest = "") {
  const auto recipe = ParseRecipe("name: custom\nrules:\n" + rules + rest, "r.yaml");
  if (recipe.ok()) return "parsed";
  EXPECT_EQ(ReasonOf(recipe.status()), Reason::kBadRecipe);
  return std::string(recipe.status().message());
}

// Whether the layer and the head are quantized; the embedding never is.
std::pair<bool, bool> Quantized(const v1::Recipe& recipe) {
  const auto tensors = Model();
  const auto schemes = ResolveSchemes(recipe, tensors);
  EXPECT_TRUE(schemes.ok()) << schemes.status();
  EXPECT_EQ((*schemes)[0].scheme, nullptr);
  EXPECT_EQ(QuantizesHead(recipe), (*schemes)[2].scheme != nullptr);
  return {(*schemes)[1].scheme != nullptr, (*schemes)[2].scheme != nullptr};
}

TEST(HeadRule, OnlyItsRoleReachesIt) {
  using Both = std::pair<bool, bool>;
  for (const std::string_view preset : PresetNames()) {
    EXPECT_FALSE(QuantizesHead(*Preset(preset))) << preset;
  }
  EXPECT_EQ(Quantized(Custom(kLayers)), Both(true, false));
  EXPECT_EQ(Quantized(Custom("  - {name: \"*\", weight: {type: fp8, scale: channel}}\n")),
            Both(true, false));
  EXPECT_EQ(Quantized(Custom("  - {name: \"*head*\", weight: {type: fp8, scale: channel}}\n")),
            Both(false, false));
  const std::string head = "  - {roles: [lm_head], weight: {type: fp8, scale: channel}}\n";
  EXPECT_EQ(Quantized(Custom(head)), Both(false, true));
  EXPECT_EQ(Quantized(Custom(kLayers + head)), Both(true, true));
  EXPECT_EQ(Quantized(Custom("  - {roles: [lm_head], weight: keep}\n" + head)), Both(false, false));
  EXPECT_EQ(
      Quantized(Custom("  - {roles: [down_proj, lm_head], weight: {type: fp8, scale: tensor}}\n")),
      Both(true, true));
  EXPECT_EQ(Quantized(Custom("  - {roles: [lm_head], name: \"model.*\", weight: {type: fp8, "
                             "scale: tensor}}\n")),
            Both(false, false));
}

TEST(HeadRule, RoundTrips) {
  const v1::Recipe recipe = Custom(
      "  - {roles: [lm_head], weight: {type: int8, scale: channel}, input: {type: int8, scale: "
      "token}}\n");
  const auto again = ParseRecipe(RecipeYaml(recipe), "again");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->SerializeAsString(), recipe.SerializeAsString());
}

TEST(HeadRule, TakesWhatReadersTake) {
  for (const char* scheme :
       {"weight: {type: fp8, scale: channel}, input: {type: fp8, scale: token}",
        "weight: {type: fp8, scale: channel}", "weight: {type: fp8, scale: tensor}",
        "weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: token}",
        "weight: {type: fp8, scale: channel}, algorithm: mse",
        "weight: {type: int8, scale: channel}, input: {type: int8, scale: token}"}) {
    EXPECT_EQ(Message(std::string("  - {roles: [lm_head], ") + scheme + "}\n"), "parsed") << scheme;
  }
}

TEST(HeadRule, RefusesTheRestByLineAndReason) {
  const std::string head = "  - {roles: [lm_head], ";
  const std::string tensor = head + "weight: {type: fp8, scale: tensor}, ";
  const std::string token = tensor + "input: {type: fp8, scale: token}}\n";
  EXPECT_THAT(Message(head + "weight: {type: fp8, scale: block, block: [128, 128]}, input: {type: "
                             "fp8, scale: group, group: 128}}\n"),
              AllOf(HasSubstr("r.yaml:3"), HasSubstr("by rows of the vocabulary")));
  EXPECT_THAT(Message(tensor + "input: {type: fp8, scale: tensor}}\n",
                      "calibration: {observer: absmax, samples: 4, sample_length: 64}\n"),
              AllOf(HasSubstr("r.yaml:3"), HasSubstr("what lm_head reads is not observed")));
  EXPECT_THAT(Message(token, "dialect: fp8\n"),
              AllOf(HasSubstr("r.yaml:3"), HasSubstr("readers of this dialect keep lm_head")));
  EXPECT_THAT(Message(head + "weight: {type: fp8, scale: channel}, solver: {type: gptq}}\n",
                      "calibration: {samples: 4, sample_length: 64}\n"),
              AllOf(HasSubstr("r.yaml:3"), HasSubstr("rounded to nearest, not solved")));
  EXPECT_THAT(Message(head + "weight: {type: fp8, scale: channel}}\n", "compat: llm-compressor\n"),
              HasSubstr("no compatibility mode quantizes lm_head"));
  EXPECT_THAT(Message("  - {name: lm_head, weight: {type: fp8, scale: channel}}\n"),
              AllOf(HasSubstr("r.yaml:3"), HasSubstr("by its role")));
  EXPECT_EQ(Message("  - {name: lm_head, weight: keep}\n"), "parsed");
}

// As `octavo convert-dialect` asks.
TEST(HeadRule, OtherDialectsCannotSayIt) {
  v1::Recipe recipe = Custom(
      "  - {roles: [lm_head, down_proj], weight: {type: fp8, scale: tensor}, input: {type: fp8, "
      "scale: token}}\n");
  const auto tensors = Model();
  const auto schemes = *ResolveSchemes(recipe, tensors);
  recipe.set_dialect("fp8");
  const absl::Status refused = CheckSchemes(recipe, tensors, schemes);
  EXPECT_EQ(ReasonOf(refused), Reason::kBadRecipe);
  EXPECT_THAT(std::string(refused.message()),
              AllOf(HasSubstr("lm_head"), HasSubstr("readers of this dialect keep lm_head")));
}

}  // namespace
}  // namespace octavo
