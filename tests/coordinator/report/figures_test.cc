#include "coordinator/report/figures.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/coordinator/report/made_up_job.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;

std::string At(int layer, const std::string& rest) {
  return "model.layers." + std::to_string(layer) + "." + rest + ".weight";
}

v1::PieceReport Scales(v1::PieceReport report, float low, float high) {
  report.set_scale_min(low);
  report.set_scale_max(high);
  return report;
}

TEST(Figures, PiecesMergeOverTreeInTheOrderOfUnits) {
  // Terms chosen so that every other order of adding gives other bits.
  const double a = 1.0, b = 0x1p-53, c = 0x1p-53, d = 0x1p-53, e = 0x1.8p-53;
  MadeUpJob job;
  for (const double part : {a, b, c, d, e}) {
    job.Cast(Report(At(0, "self_attn.q_proj"), part, 2 * part));
  }
  const Figures figures = MakeFigures(job.plan(), job.by_unit());
  ASSERT_EQ(figures.tensors.size(), 1u);
  // Tree(5): the first four as pairs, then the fifth.
  const double want = ((a + b) + (c + d)) + e;
  EXPECT_NE(want, (((a + b) + c) + d) + e);
  EXPECT_EQ(figures.tensors[0].weights.squared_error, want);
  EXPECT_EQ(figures.tensors[0].weights.squared_source, 2 * want);
  EXPECT_EQ(figures.tensors[0].weights.RelativeError(), std::sqrt(0.5));
  EXPECT_EQ(figures.tensors[0].weights.elements, 5 * 16u);
  EXPECT_EQ(figures.tensors[0].format.granularity(), v1::PER_CHANNEL);
}

TEST(Figures, TensorsComeInModelOrderAndGroupsAddUp) {
  MadeUpJob job;
  v1::PieceReport odd = Scales(Report(At(1, "mlp.down_proj"), 9, 100), 0.5f, 4);
  odd.set_max_abs_error(0.75);
  odd.set_saturated(3);
  odd.set_zero_groups(2);
  job.Cast(odd);
  job.Cast(Scales(Report(At(0, "mlp.down_proj"), 16, 25), 0.25f, 1));
  job.Cast(Report(At(0, "self_attn.q_proj"), 1, 4));
  job.Copy("model.norm.weight");
  job.Copy("lm_head.weight");
  const Figures figures = MakeFigures(job.plan(), job.by_unit());

  std::vector<std::string> names;
  for (const TensorFigures& tensor : figures.tensors) names.push_back(tensor.name);
  EXPECT_THAT(names, ElementsAre(At(0, "self_attn.q_proj"), At(0, "mlp.down_proj"),
                                 At(1, "mlp.down_proj")));
  ASSERT_EQ(figures.roles.size(), 2u);
  EXPECT_EQ(figures.roles[0].place.role, v1::Q_PROJ);
  EXPECT_EQ(figures.roles[0].weights.scale_max, 0) << "no scale was reported";
  const WeightFigures& down = figures.roles[1].weights;
  EXPECT_EQ(figures.roles[1].place.role, v1::DOWN_PROJ);
  EXPECT_EQ(down.tensors, 2u);
  EXPECT_EQ(down.RelativeError(), std::sqrt(25.0 / 125.0));
  EXPECT_EQ(down.max_abs_error, 0.75);
  EXPECT_EQ(down.saturated, 3u);
  EXPECT_EQ(down.zero_groups, 2u);
  EXPECT_EQ(down.scale_min, 0.25f);
  EXPECT_EQ(down.scale_max, 4);

  ASSERT_EQ(figures.layers.size(), 2u);
  EXPECT_EQ(figures.layers[0].place.layer, 0);
  EXPECT_EQ(figures.layers[0].weights.squared_error, 17);
  EXPECT_EQ(figures.layers[1].weights.squared_error, 9);
  ASSERT_EQ(figures.layers_by_role.size(), 3u);
  EXPECT_EQ(figures.layers_by_role[2].place.role, v1::DOWN_PROJ);
  EXPECT_EQ(figures.layers_by_role[2].place.layer, 1);
  EXPECT_EQ(figures.all.tensors, 3u);
  EXPECT_EQ(figures.all.squared_source, 129);
  EXPECT_EQ(figures.kept_tensors, 2u);

  // 0.8, 0.5, 0.3.
  ASSERT_EQ(figures.worst.size(), 3u);
  EXPECT_EQ(figures.worst[0]->name, At(0, "mlp.down_proj"));
  EXPECT_EQ(figures.worst[1]->name, At(0, "self_attn.q_proj"));
  EXPECT_EQ(figures.worst[2]->name, At(1, "mlp.down_proj"));
}

TEST(Figures, TenWorstOfManyTiesInModelOrder) {
  MadeUpJob job("llama", 20);
  for (int layer = 19; layer >= 0; --layer) {
    job.Cast(Report(At(layer, "self_attn.k_proj"), layer == 7 ? 9 : 4, 16));
  }
  const Figures figures = MakeFigures(job.plan(), job.by_unit());
  ASSERT_EQ(figures.worst.size(), 10u);
  EXPECT_EQ(figures.worst[0]->place.layer, 7);
  for (int i = 1; i < 10; ++i) EXPECT_EQ(figures.worst[i]->place.layer, i <= 7 ? i - 1 : i);
}

TEST(Figures, ExpertsOfAMixtureAndStaticScales) {
  MadeUpJob job("mixtral", 2, 4);
  job.Calibrated({60, 40});
  const std::string moe = "model.layers.1.block_sparse_moe.experts.";
  job.Cast(Report(moe + "2.w1.weight", 1, 4));
  job.Cast(Report(moe + "0.w1.weight", 1, 12));
  job.Scale(1, v1::OBSERVED_MLP_INPUT, 0.5f, 224, {moe + "0.w1.input_scale"});
  job.Saw(1, 2, 130, 130, 99, 2);
  job.Saw(1, 0, 70, 20, 224, 3);
  job.Scale(0, v1::OBSERVED_KEY, 0.25f, 112, {"model.layers.0.self_attn.k_scale"});
  const Figures figures = MakeFigures(job.plan(), job.by_unit());

  EXPECT_EQ(figures.tensors[0].place.expert, 0);
  EXPECT_EQ(figures.tensors[0].place.role, v1::EXPERT_GATE);
  ASSERT_EQ(figures.layers_by_role.size(), 1u) << "experts of a layer are one group";
  EXPECT_EQ(figures.layers_by_role[0].weights.RelativeError(), std::sqrt(2.0 / 16));

  ASSERT_EQ(figures.scales.size(), 2u);
  EXPECT_EQ(figures.scales[0].layer, 0);
  EXPECT_EQ(figures.scales[0].point, v1::OBSERVED_KEY);
  EXPECT_EQ(figures.scales[1].scale, 0.5f);
  EXPECT_EQ(figures.scales[1].amax, 224);
  EXPECT_EQ(figures.scales[1].rows, 100u);
  EXPECT_THAT(figures.scales[1].tensors, ElementsAre(moe + "0.w1.input_scale"));

  ASSERT_EQ(figures.experts.size(), 2u);
  EXPECT_EQ(figures.experts[0].expert, 0);
  EXPECT_EQ(figures.experts[0].rows, 70u);
  EXPECT_EQ(figures.experts[0].routed, 20u);
  EXPECT_EQ(figures.experts[0].input_amax, 224);
  EXPECT_EQ(figures.experts[0].inner_amax, 3);
  EXPECT_EQ(figures.experts[1].expert, 2);
  EXPECT_EQ(figures.experts[1].rows, 130u);
  EXPECT_EQ(figures.calibration_samples, 2u);
  EXPECT_EQ(figures.calibration_tokens, 100u);
}

TEST(Figures, NothingQuantizedGivesNothing) {
  MadeUpJob job;
  job.Copy("model.norm.weight");
  const Figures figures = MakeFigures(job.plan(), job.by_unit());
  EXPECT_TRUE(figures.tensors.empty());
  EXPECT_TRUE(figures.worst.empty());
  EXPECT_EQ(figures.all.RelativeError(), 0);
  EXPECT_EQ(figures.kept_tensors, 1u);
}

}  // namespace
}  // namespace octavo
