#include "core/scheme/compat.h"

#include "core/base/error.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Recipe With(std::string_view preset, v1::Compat compat, std::string_view dialect = {}) {
  v1::Recipe recipe = *Preset(preset);
  recipe.set_compat(compat);
  if (!dialect.empty()) recipe.set_dialect(std::string(dialect));
  return recipe;
}

std::string Refusal(const v1::Recipe& recipe) {
  const absl::Status status = CheckRecipe(recipe);
  EXPECT_EQ(ReasonOf(status), Reason::kBadRecipe) << status;
  return std::string(status.message());
}

TEST(Compat, EveryValueHasAModeAndEveryNameFindsIt) {
  for (int i = v1::Compat_MIN; i <= v1::Compat_MAX; ++i) {
    const auto compat = static_cast<v1::Compat>(i);
    const CompatMode& mode = CompatModeOf(compat);
    EXPECT_EQ(mode.compat, compat);
    EXPECT_EQ(mode.name.empty(), compat == v1::COMPAT_NONE);
    if (compat != v1::COMPAT_NONE) {
      EXPECT_EQ(FindCompatMode(mode.name), &mode);
    }
  }
  EXPECT_THAT(CompatNames(), ElementsAre("llm-compressor", "autofp8", "quark-2024", "quark-0.13"));
  EXPECT_EQ(FindCompatMode(""), nullptr);
  EXPECT_EQ(FindCompatMode("autogptq"), nullptr);
}

TEST(Compat, RecipesSayTheirMode) {
  for (const std::string_view name : CompatNames()) {
    const CompatMode& mode = *FindCompatMode(name);
    v1::Recipe recipe = With("fp8-static-kv", mode.compat, mode.dialects.front());
    ASSERT_TRUE(CheckRecipe(recipe).ok()) << CheckRecipe(recipe);
    const auto again = ParseRecipe(RecipeYaml(recipe), "again");
    ASSERT_TRUE(again.ok()) << again.status() << RecipeYaml(recipe);
    EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(recipe, *again));
    EXPECT_THAT(RecipeYaml(recipe), HasSubstr("compat: " + std::string(name) + "\n"));
  }
  const auto bad = ParseRecipe("name: a\ncompat: autogptq\nrules: [{weight: keep}]\n", "r.yaml");
  EXPECT_EQ(ReasonOf(bad.status()), Reason::kBadRecipe);
  EXPECT_THAT(std::string(bad.status().message()), HasSubstr("r.yaml:2"));
}

TEST(Compat, RefusesWhatTheToolDoesNotDo) {
  EXPECT_THAT(Refusal(With("fp8-static", v1::COMPAT_AUTOFP8, "quark")),
              HasSubstr("compat autofp8: that tool does not write the dialect quark"));
  EXPECT_THAT(Refusal(With("fp8-static", v1::COMPAT_QUARK_2024, "compressed-tensors")),
              HasSubstr("dialect compressed-tensors"));
  EXPECT_THAT(Refusal(With("fp8-static", v1::COMPAT_LLM_COMPRESSOR)), HasSubstr("dialect fp8"));
  EXPECT_THAT(Refusal(With("fp8-block", v1::COMPAT_AUTOFP8, "fp8")),
              HasSubstr("one scale per matrix"));
  v1::Recipe recipe = With("fp8-dynamic", v1::COMPAT_LLM_COMPRESSOR);
  EXPECT_TRUE(CheckRecipe(recipe).ok());
  recipe.mutable_rules(0)->set_algorithm(v1::MSE);
  EXPECT_THAT(Refusal(recipe), HasSubstr("MSE"));
  recipe = With("fp8-static", v1::COMPAT_QUARK_0_13);
  EXPECT_TRUE(CheckRecipe(recipe).ok());
  recipe.mutable_calibration()->set_observer(v1::OBSERVER_MSE);
  EXPECT_THAT(Refusal(recipe), HasSubstr("largest magnitude only"));
  recipe.set_compat(static_cast<v1::Compat>(77));
  EXPECT_THAT(Refusal(recipe), HasSubstr("77"));
}

TEST(Compat, StackedExpertsOnlyWhereTheToolStacksThem) {
  v1::ModelTensor stack;
  stack.mutable_spec()->set_name("transformer.blocks.0.ffn.experts.mlp.w1");
  stack.mutable_spec()->add_shape(64);
  stack.mutable_spec()->add_shape(32);
  stack.set_role(v1::STACKED_GATE);
  const auto resolve = [&](v1::Compat compat) {
    return ResolveSchemes(With("fp8-static", compat), {&stack, 1}).status();
  };
  EXPECT_TRUE(resolve(v1::COMPAT_NONE).ok());
  EXPECT_TRUE(resolve(v1::COMPAT_QUARK_2024).ok());
  for (const v1::Compat compat : {v1::COMPAT_AUTOFP8, v1::COMPAT_QUARK_0_13}) {
    EXPECT_EQ(ReasonOf(resolve(compat)), Reason::kBadRecipe);
  }
}

}  // namespace
}  // namespace octavo
