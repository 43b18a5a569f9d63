#include "core/scheme/mixed_recipe.h"

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/scheme/recipe.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

std::vector<v1::ModelTensor> Model(int layers, bool experts) {
  std::vector<v1::ModelTensor> tensors;
  const auto add = [&](int layer, v1::TensorRole role, const std::string& name, int expert = -1) {
    v1::ModelTensor& tensor = tensors.emplace_back();
    tensor.set_layer(layer);
    tensor.set_expert(expert);
    tensor.set_role(role);
    tensor.mutable_spec()->set_name("model.layers." + std::to_string(layer) + "." + name +
                                    ".weight");
  };
  for (int layer = 0; layer < layers; ++layer) {
    add(layer, v1::Q_PROJ, "self_attn.q_proj");
    add(layer, v1::K_PROJ, "self_attn.k_proj");
    add(layer, v1::V_PROJ, "self_attn.v_proj");
    add(layer, v1::O_PROJ, "self_attn.o_proj");
    for (int expert = 0; experts && expert < 2; ++expert) {
      const std::string at = "block_sparse_moe.experts." + std::to_string(expert);
      add(layer, v1::EXPERT_GATE, at + ".w1", expert);
      add(layer, v1::EXPERT_UP, at + ".w3", expert);
      add(layer, v1::EXPERT_DOWN, at + ".w2", expert);
    }
    if (experts) continue;
    add(layer, v1::GATE_PROJ, "mlp.gate_proj");
    add(layer, v1::UP_PROJ, "mlp.up_proj");
    add(layer, v1::DOWN_PROJ, "mlp.down_proj");
  }
  return tensors;
}

std::set<std::string> Names(const std::vector<v1::ModelTensor>& tensors,
                            const std::function<bool(const v1::ModelTensor&)>& wanted) {
  std::set<std::string> names;
  for (const v1::ModelTensor& tensor : tensors) {
    if (wanted(tensor)) names.insert(tensor.spec().name());
  }
  return names;
}

// The recipe as a file says it, and what it keeps.
std::set<std::string> KeptBy(const v1::Recipe& recipe,
                             const std::vector<v1::ModelTensor>& tensors) {
  const auto read = ParseRecipe(RecipeYaml(recipe), "r.yaml");
  EXPECT_TRUE(read.ok()) << read.status();
  const auto schemes = ResolveSchemes(*read, tensors);
  std::set<std::string> kept;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if ((*schemes)[i].scheme == nullptr) kept.insert(tensors[i].spec().name());
  }
  return kept;
}

TEST(MixedRecipe, KeepsJustWhatItIsTold) {
  const auto tensors = Model(12, false);
  const v1::Recipe base = *Preset("fp8-dynamic");
  const auto check = [&](const std::set<std::string>& kept, int rules) {
    const auto mixed = KeepInRecipe(base, tensors, kept);
    ASSERT_TRUE(mixed.ok()) << mixed.status();
    EXPECT_EQ(mixed->rules_size(), base.rules_size() + rules);
    EXPECT_EQ(KeptBy(*mixed, tensors), kept);
  };
  check({}, 0);
  const auto of = [&](auto wanted) { return Names(tensors, wanted); };
  // Layer 1, and not 10 or 11.
  check(of([](const auto& t) { return t.layer() == 1; }), 1);
  check(of([](const auto& t) { return t.role() == v1::DOWN_PROJ || t.role() == v1::O_PROJ; }), 1);
  check(of([](const auto& t) {
          return t.role() == v1::DOWN_PROJ || (t.layer() == 3 && t.role() == v1::O_PROJ) ||
                 t.layer() == 11;
        }),
        3);
  check(of([](const auto& /*t*/) { return true; }), 1);
}

TEST(MixedRecipe, ExpertsOfALayerStayTogether) {
  const auto tensors = Model(3, true);
  const v1::Recipe base = *Preset("fp8-dynamic");
  const auto experts =
      Names(tensors, [](const auto& t) { return t.layer() == 1 && t.expert() >= 0; });
  const auto mixed = KeepInRecipe(base, tensors, experts);
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  EXPECT_EQ(KeptBy(*mixed, tensors), experts);
  const auto one = Names(tensors, [](const auto& t) { return t.layer() == 1 && t.expert() == 0; });
  EXPECT_EQ(ReasonOf(KeepInRecipe(base, tensors, one).status()), Reason::kBadRecipe);
}

TEST(MixedRecipe, FusedLayersAreNotTakenApart) {
  const auto tensors = Model(2, false);
  EXPECT_EQ(ReasonOf(KeepInRecipe(*Preset("fp8-dynamic"), tensors,
                                  {"model.layers.0.self_attn.q_proj.weight"})
                         .status()),
            Reason::kBadRecipe);
}

std::vector<KeepChoice> Some() {
  return {{.error = 4, .bytes = 400},
          {.error = 3, .bytes = 10},
          {.error = 2, .bytes = 100},
          {.error = 1, .bytes = 1}};
}

TEST(MixedRecipe, ErrorBudgetIsKeptByTheMostErrorPerByte) {
  const auto keep = [](double budget) { return KeepForError(Some(), budget); };
  EXPECT_EQ(keep(10), (std::vector<bool>{false, false, false, false}));
  EXPECT_EQ(keep(9), (std::vector<bool>{false, false, false, true}));
  EXPECT_EQ(keep(6), (std::vector<bool>{false, true, false, true}));
  // The first one's four are needed, so that neither the last one's nor the third's one is.
  EXPECT_EQ(keep(3), (std::vector<bool>{true, true, false, false}));
  EXPECT_EQ(keep(0), (std::vector<bool>{true, true, true, true}));
}

TEST(MixedRecipe, ByteBudgetPassesOverWhatDoesNotFit) {
  const auto keep = [](uint64_t spare) { return KeepForBytes(Some(), spare); };
  EXPECT_EQ(keep(0), (std::vector<bool>{false, false, false, false}));
  EXPECT_EQ(keep(10), (std::vector<bool>{false, false, false, true}));
  EXPECT_EQ(keep(11), (std::vector<bool>{false, true, false, true}));
  EXPECT_EQ(keep(411), (std::vector<bool>{false, true, true, true}));
  EXPECT_EQ(keep(511), (std::vector<bool>{true, true, true, true}));
}

}  // namespace
}  // namespace octavo
