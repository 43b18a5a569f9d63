// The plan of an eight-bit output head, of its own or made from the embedding.

#include "coordinator/planner/quantize_plan.h"
#include "coordinator/planner/sensitivity_plan.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/config_json.h"
#include "core/checkpoint/safetensors.h"
#include "core/scheme/recipe.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/tiny_llama.h"

namespace octavo {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;

constexpr char kHead[] =
    "  - {roles: [lm_head], weight: {type: int8, scale: channel}, input: {type: int8, scale: "
    "token}}\n";
constexpr char kInt8[] =
    "  - {weight: {type: int8, scale: channel}, input: {type: int8, scale: token}}\n";
constexpr char kFp8[] = "  - {weight: {type: fp8, scale: channel}}\n";
constexpr char kKeep[] = "  - {weight: keep}\n";

v1::Recipe Custom(const std::string& rules) {
  const auto recipe = ParseRecipe("name: custom\nrules:\n" + rules, "custom.yaml");
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return *recipe;
}

v1::Plan PlanOf(const TinyLlama& tiny, const std::string& rules) {
  const TestFolder folder;
  WriteTinyLlama(tiny, folder / "src");
  const auto checkpoint = OpenCheckpoint(folder / "src");
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto plan = BuildPlan(*checkpoint, Custom(rules));
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

ordered_json ConfigOf(const v1::Plan& plan) {
  for (const v1::OutputFile& output : plan.outputs()) {
    if (output.name() == "config.json") return *ParseJsonObject(output.head(), "config.json");
  }
  ADD_FAILURE() << "no config.json";
  return {};
}

std::map<std::string, v1::TensorSpec> TensorsOf(const v1::OutputFile& output) {
  std::map<std::string, v1::TensorSpec> tensors;
  const auto header = ParseHeader(output.head(), output.size(), "f");
  EXPECT_TRUE(header.ok()) << header.status();
  if (!header.ok()) return tensors;
  for (const v1::TensorSpec& spec : *header) tensors[spec.name()] = spec;
  return tensors;
}

TEST(HeadPlan, ReadersFindItByName) {
  // One scheme for everything: layers are meant by their class, the head by its name.
  auto quantization = ConfigOf(PlanOf({.tied = false}, kHead + std::string(kInt8)));
  EXPECT_FALSE(quantization["tie_word_embeddings"].get<bool>());
  quantization = quantization["quantization_config"];
  EXPECT_EQ(quantization["ignore"], ordered_json::array());
  EXPECT_EQ(quantization["config_groups"].size(), 1u);
  EXPECT_EQ(quantization["config_groups"]["group_0"]["targets"],
            ordered_json({"Linear", "lm_head"}));

  quantization =
      ConfigOf(PlanOf({.tied = false}, kHead + std::string(kFp8)))["quantization_config"];
  EXPECT_EQ(quantization["ignore"], ordered_json::array());
  EXPECT_EQ(quantization["format"], "mixed-precision");
  bool alone = false;
  for (const auto& [name, group] : quantization["config_groups"].items()) {
    alone = alone || group["targets"] == ordered_json({"lm_head"});
  }
  EXPECT_TRUE(alone) << quantization.dump();

  // Nothing else: "Linear" would say that of layers that are kept, if they were not listed.
  quantization =
      ConfigOf(PlanOf({.tied = false}, kHead + std::string(kKeep)))["quantization_config"];
  EXPECT_EQ(quantization["ignore"].size(), 14u);
  for (const auto& kept : quantization["ignore"]) EXPECT_NE(kept, "lm_head");
}

TEST(HeadPlan, ATiedHeadBecomesATensorBesideTheEmbedding) {
  for (const bool stray : {false, true}) {
    const TinyLlama tiny = {.shards = 2, .tied = true};
    const TestFolder folder;
    WriteTinyLlama(tiny, folder / "src");
    auto checkpoint = OpenCheckpoint(folder / "src");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    if (stray) {  // nobody reads it, and it may hold anything
      v1::ModelTensor other = checkpoint->tensors[1];
      other.mutable_spec()->set_name("lm_head.weight");
      other.set_role(v1::IGNORED);
      checkpoint->tensors.push_back(other);
    }
    const auto plan = BuildPlan(*checkpoint, Custom(kHead + std::string(kFp8)));
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_FALSE(plan->model().tied_embeddings());
    EXPECT_FALSE(ConfigOf(*plan)["tie_word_embeddings"].get<bool>());
    const v1::TensorSpec& embedding = checkpoint->tensors[0].spec();
    int heads = 0;
    for (const v1::Unit& unit : plan->units()) {
      for (const v1::Piece& piece : unit.pieces()) {
        if (piece.source().name() != "lm_head.weight") continue;
        ++heads;
        EXPECT_EQ(piece.source().file(), embedding.file());
        EXPECT_EQ(piece.source().begin(), embedding.begin());
        EXPECT_EQ(piece.source().end(), embedding.end());
        EXPECT_EQ(piece.format().type(), v1::NUMERIC_INT8);
      }
    }
    EXPECT_EQ(heads, 1);
    const auto tensors = TensorsOf(plan->outputs(0));
    EXPECT_EQ(tensors.at("lm_head.weight").dtype(), v1::I8);
    EXPECT_EQ(tensors.at("lm_head.weight_scale").shape(0), embedding.shape(0));
    EXPECT_EQ(tensors.at(embedding.name()).dtype(), embedding.dtype());
    ASSERT_EQ(plan->warnings_size(), 2);
    EXPECT_THAT(plan->warnings(0).text(), HasSubstr("vLLM"));
    EXPECT_THAT(plan->warnings(1).text(), HasSubstr("tie_word_embeddings becomes false"));
  }
}

TEST(HeadPlan, WithoutARuleForItATiedModelStaysTied) {
  for (const std::string& rules :
       {std::string(kFp8), "  - {roles: [lm_head], weight: keep}\n" + std::string(kHead) + kFp8}) {
    const v1::Plan plan = PlanOf({.tied = true}, rules);
    EXPECT_TRUE(plan.model().tied_embeddings());
    EXPECT_TRUE(ConfigOf(plan)["tie_word_embeddings"].get<bool>());
    EXPECT_EQ(TensorsOf(plan.outputs(0)).count("lm_head.weight"), 0u);
    EXPECT_EQ(plan.warnings_size(), 0);
  }
}

TEST(HeadPlan, IsNotMeasured) {
  const TestFolder folder;
  WriteTinyLlama({.tied = false}, folder / "src");
  const auto checkpoint = OpenCheckpoint(folder / "src");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  v1::Calibration measure;
  measure.set_observer(v1::OBSERVER_ABSMAX);
  measure.set_samples(1);
  measure.set_sample_length(8);
  v1::CalibrationSet tokens;
  tokens.add_sample_lengths(8);
  const auto plan =
      BuildSensitivityPlan(*checkpoint, Custom(kHead + std::string(kInt8)), measure, tokens);
  ASSERT_TRUE(plan.ok()) << plan.status();
  int measured = 0;
  for (const v1::Unit& unit : plan->units()) {
    if (unit.kind() != v1::UNIT_SENSE) continue;
    for (const v1::Piece& piece : unit.pieces()) {
      ++measured;
      EXPECT_NE(piece.source().name(), "lm_head.weight");
    }
  }
  EXPECT_EQ(measured, 14);
}

}  // namespace
}  // namespace octavo
