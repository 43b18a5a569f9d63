#include <algorithm>
#include <map>
#include <set>

#include "coordinator/planner/plan_parts.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/safetensors.h"
#include "core/scheme/recipe.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/tiny_llama.h"

namespace octavo {
namespace {

struct LaidOut {
  v1::Plan plan;
  std::vector<v1::StaticScale> scales;
  std::vector<std::string> quantized;             // names of weights
  std::map<std::string, v1::TensorSpec> tensors;  // as the written headers say
};

LaidOut LayOut(const TinyLlama& tiny, const v1::Recipe& recipe) {
  const TestFolder folder;
  WriteTinyLlama(tiny, folder / "src");
  const auto checkpoint = OpenCheckpoint(folder / "src");
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto schemes = ResolveSchemes(recipe, checkpoint->tensors);
  EXPECT_TRUE(schemes.ok()) << schemes.status();
  LaidOut out;
  const auto layout = LayOutFiles(*checkpoint, recipe, *schemes, &out.plan);
  EXPECT_TRUE(layout.ok()) << layout.status();
  out.scales = layout->scales;
  for (const PlacedTensor& placed : layout->tensors) {
    if (placed.scheme.scheme == nullptr) continue;
    out.quantized.push_back(placed.source->spec().name());
    const bool bf16 =
        recipe.dialect() == "compressed-tensors" || recipe.compat() == v1::COMPAT_QUARK_0_13;
    EXPECT_EQ(placed.scale_dtype, bf16 ? v1::BF16 : v1::F32);
  }
  for (const v1::OutputFile& file : out.plan.outputs()) {
    if (!file.name().ends_with(".safetensors")) continue;
    const auto header = ParseHeader(file.head(), file.size(), file.name());
    EXPECT_TRUE(header.ok()) << header.status();
    for (const v1::TensorSpec& spec : *header) out.tensors[spec.name()] = spec;
  }
  return out;
}

v1::Recipe Static(const std::string& dialect, bool cache) {
  v1::Recipe recipe = *Preset(cache ? "fp8-static-kv" : "fp8-static");
  recipe.set_dialect(dialect);
  return recipe;
}

TEST(PlanLayout, StaticScalesHavePlacesOfTheirOwn) {
  for (const std::string dialect : {"compressed-tensors", "fp8", "quark"}) {
    for (const bool cache : {false, true}) {
      const LaidOut out = LayOut({.layers = 3, .shards = 2}, Static(dialect, cache));
      ASSERT_EQ(out.quantized.size(), 3u * 7);
      ASSERT_EQ(out.scales.size(), 3u * (cache ? 9 : 7));
      std::map<std::pair<int32_t, v1::ObservedPoint>, int> points;
      for (const v1::StaticScale& scale : out.scales) {
        ASSERT_TRUE(out.tensors.contains(scale.tensor())) << scale.tensor();
        const v1::TensorSpec& spec = out.tensors.at(scale.tensor());
        EXPECT_EQ(spec.file(), out.plan.outputs(static_cast<int>(scale.out().file())).name());
        EXPECT_EQ(spec.begin(), scale.out().begin());
        EXPECT_EQ(spec.end(), scale.out().end());
        EXPECT_EQ(spec.dtype(), scale.dtype());
        EXPECT_EQ(scale.dtype(), dialect == "compressed-tensors" ? v1::BF16 : v1::F32);
        EXPECT_EQ(spec.shape_size(), dialect == "compressed-tensors" ? 1 : 0);
        EXPECT_EQ(scale.count(), 1u);
        EXPECT_EQ(scale.expert(), -1);
        ++points[{scale.layer(), scale.point()}];
      }
      for (int layer = 0; layer < 3; ++layer) {
        EXPECT_EQ((points[{layer, v1::OBSERVED_ATTENTION_INPUT}]), 3);
        EXPECT_EQ((points[{layer, v1::OBSERVED_ATTENTION_OUTPUT}]), 1);
        EXPECT_EQ((points[{layer, v1::OBSERVED_MLP_INPUT}]), 2);
        EXPECT_EQ((points[{layer, v1::OBSERVED_MLP_INNER}]), 1);
        EXPECT_EQ((points[{layer, v1::OBSERVED_KEY}]), cache ? 1 : 0);
        EXPECT_EQ((points[{layer, v1::OBSERVED_VALUE}]), cache ? 1 : 0);
      }
      // Sources, a weight scale for each, static scales; and nothing else.
      EXPECT_EQ(out.tensors.size(), 2u + 3 * 9 + 3 * 7 + out.scales.size());
    }
  }
}

TEST(PlanLayout, CompatibilityModesLookAndStoreAsTheirToolsDo) {
  for (const v1::Compat compat :
       {v1::COMPAT_AUTOFP8, v1::COMPAT_QUARK_2024, v1::COMPAT_QUARK_0_13}) {
    v1::Recipe recipe = Static("fp8", true);
    recipe.set_compat(compat);
    const LaidOut out = LayOut({.layers = 2}, recipe);
    ASSERT_EQ(out.scales.size(), 2u * 9);
    for (const v1::StaticScale& scale : out.scales) {
      const v1::TensorSpec& spec = out.tensors.at(scale.tensor());
      EXPECT_EQ(spec.dtype(), compat == v1::COMPAT_QUARK_0_13 ? v1::BF16 : v1::F32);
      EXPECT_EQ(spec.dtype(), scale.dtype());
      EXPECT_EQ(spec.shape_size(), 0);
      EXPECT_EQ(spec.begin(), scale.out().begin());
      EXPECT_EQ(spec.end(), scale.out().end());
      EXPECT_EQ(scale.expert(), -1);
      std::set<int> points = {scale.point()};
      points.insert(scale.also().begin(), scale.also().end());
      if (!scale.tensor().ends_with("k_scale") && !scale.tensor().ends_with("v_scale")) {
        EXPECT_THAT(points, ::testing::ElementsAre(::testing::Lt(v1::OBSERVED_KEY)));
      } else if (compat == v1::COMPAT_AUTOFP8) {
        EXPECT_THAT(points, ::testing::ElementsAre(scale.tensor().ends_with("k_scale")
                                                       ? v1::OBSERVED_KEY_PROJECTED
                                                       : v1::OBSERVED_VALUE_PROJECTED));
      } else {
        EXPECT_THAT(points, ::testing::ElementsAre(v1::OBSERVED_KEY_PROJECTED,
                                                   v1::OBSERVED_VALUE_PROJECTED));
      }
    }
  }
}

TEST(PlanLayout, AKeptLayerHasNoInputScaleButItsKeysHaveOne) {
  const auto recipe = ParseRecipe(
      "name: a\ndialect: fp8\nrules:\n  - {roles: [q_proj, k_proj, v_proj], weight: keep}\n"
      "  - {weight: {type: fp8, scale: tensor}, input: {type: fp8, scale: tensor}}\n"
      "kv_cache: {type: fp8, scale: tensor}\n"
      "calibration: {observer: mse, samples: 2, sample_length: 8}\n",
      "a");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const LaidOut out = LayOut({.layers = 1}, *recipe);
  std::vector<std::string> names;
  for (const v1::StaticScale& scale : out.scales) names.push_back(scale.tensor());
  EXPECT_THAT(names, ::testing::UnorderedElementsAre("model.layers.0.self_attn.k_scale",
                                                     "model.layers.0.self_attn.v_scale",
                                                     "model.layers.0.self_attn.o_proj.input_scale",
                                                     "model.layers.0.mlp.gate_proj.input_scale",
                                                     "model.layers.0.mlp.up_proj.input_scale",
                                                     "model.layers.0.mlp.down_proj.input_scale"));
}

}  // namespace
}  // namespace octavo
