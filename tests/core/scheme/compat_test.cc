#include "core/scheme/compat.h"

#include "core/base/error.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "core/tensor/bare/float_bits.h"
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
  EXPECT_THAT(CompatNames(), ElementsAre("llm-compressor", "llm-compressor-0.1", "autofp8",
                                         "quark-2024", "quark-0.13"));
  EXPECT_EQ(FindCompatMode(""), nullptr);
  EXPECT_EQ(FindCompatMode("autogptq"), nullptr);
}

TEST(Compat, RecipesSayTheirMode) {
  for (const std::string_view name : CompatNames()) {
    const CompatMode& mode = *FindCompatMode(name);
    v1::Recipe recipe =
        With(mode.solves ? "int8-w8a8-gptq" : "fp8-static-kv", mode.compat, mode.dialects.front());
    ApplyCompat(&recipe);
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

TEST(Compat, TheModeOfSolvingImpliesOrderAndPropagation) {
  const v1::Recipe plain = With("int8-w8a8-gptq", v1::COMPAT_LLM_COMPRESSOR_0_1);
  EXPECT_TRUE(plain.rules(0).solver().activation_order());
  EXPECT_THAT(Refusal(plain), HasSubstr("columns in natural order only"));
  v1::Recipe recipe = plain;
  ApplyCompat(&recipe);
  EXPECT_TRUE(CheckRecipe(recipe).ok()) << CheckRecipe(recipe);
  EXPECT_FALSE(recipe.rules(0).solver().activation_order());
  EXPECT_TRUE(recipe.calibration().propagates_source());
  const auto parsed = ParseRecipe(
      "name: a\ncompat: llm-compressor-0.1\nrules: [{weight: {type: int8, scale: channel}, input: "
      "{type: int8, scale: token}, solver: {type: gptq}}]\n"
      "calibration: {samples: 2, sample_length: 3}\n",
      "r.yaml");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->calibration().propagates_source());
  EXPECT_FALSE(parsed->rules(0).solver().activation_order());

  recipe.mutable_calibration()->set_propagates_source(false);
  EXPECT_THAT(Refusal(recipe), HasSubstr("what the source's layers below give"));
  for (const char* other : {"fp8-gptq", "sparsegpt-24-fp8", "int8-dynamic", "fp8-dynamic"}) {
    v1::Recipe bad = With(other, v1::COMPAT_LLM_COMPRESSOR_0_1);
    ApplyCompat(&bad);
    EXPECT_THAT(Refusal(bad), HasSubstr("GPTQ to INT8 with one scale per row")) << other;
  }
  EXPECT_THAT(Refusal(With("int8-w8a8-gptq", v1::COMPAT_LLM_COMPRESSOR)),
              HasSubstr("compat and a solver"));
  // Other modes are left alone.
  v1::Recipe same = With("int8-w8a8-gptq", v1::COMPAT_NONE);
  ApplyCompat(&same);
  EXPECT_TRUE(same.rules(0).solver().activation_order());
}

TEST(Compat, NoScaleOfSolvingIsBelowF32Epsilon) {
  const CompatMode& mode = CompatModeOf(v1::COMPAT_LLM_COMPRESSOR_0_1);
  const auto scale = [&](float amax, SourceType stored) {
    return CompatScale(mode, BitsOf(amax), 127.5f, stored);
  };
  EXPECT_EQ(scale(0, SourceType::kBf16), 0x1p-23f);
  EXPECT_EQ(scale(1e-6f, SourceType::kBf16), 0x1p-23f);
  EXPECT_EQ(scale(1.0f, SourceType::kF32), 1.0f / 127.5f);
  EXPECT_EQ(scale(1.0f, SourceType::kBf16), F32FromBf16(Bf16FromF32(1.0f / 127.5f)));
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
