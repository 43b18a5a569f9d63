// A job that measures in one process: two phases a layer, no output but figures.

#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <span>

#include "coordinator/planner/sensitivity_plan.h"
#include "coordinator/report/sensitivity.h"
#include "core/base/error.h"
#include "core/scheme/legality.h"
#include "core/scheme/recipe.h"
#include "core/tensor/bare/float_bits.h"
#include "tests/coordinator/planner/calibrated_run.h"

namespace octavo {
namespace {

v1::Calibration MeasureAll() {
  v1::Calibration measure;
  measure.set_observer(v1::OBSERVER_ABSMAX);
  measure.set_samples(64);
  measure.set_sample_length(64);
  measure.set_expert_quota(8);
  measure.set_propagates_source(true);
  return measure;
}

class Sensed : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    source_ = folder_ / "src";
    ASSERT_TRUE(WriteSynthetic(Spec(GetParam()), 7, source_).ok());
  }
  Made Job(const std::string& name, const v1::Recipe& recipe, int samples) {
    const auto checkpoint = OpenCheckpoint(source_);
    const v1::CalibrationSet set = RandomSamples(samples, 3);
    return Staged(source_, folder_ / name, checkpoint,
                  BuildSensitivityPlan(*checkpoint, recipe, MeasureAll(), set), set);
  }
  bool has_experts() const { return std::string(GetParam()) == "mixtral"; }
  Sensitivity Of(const std::map<std::string, std::string>& files) const {
    const auto found = ParseSensitivity(files.at(kSensitivityName), kSensitivityName);
    EXPECT_TRUE(found.ok()) << found.status();
    return *found;
  }

  const TestFolder folder_;
  std::string source_;
};

TEST_P(Sensed, PlanHasTwoPhasesALayerAndNoOutput) {
  const v1::Plan plan = Job("a", *Preset("fp8-dynamic"), 60).plan;
  EXPECT_TRUE(plan.measures());
  EXPECT_EQ(plan.outputs_size(), 0);
  EXPECT_EQ(plan.output_bytes(), 0);
  const v1::CalibrationPlan& calibration = plan.calibration();
  const uint64_t tokens = calibration.batches(calibration.batches_size() - 1).token_end();
  ASSERT_GT(tokens, 1024u);  // so that a dense layer has parts
  std::map<std::pair<uint32_t, v1::ObservedPoint>, uint64_t> covered;
  std::multiset<std::string> experts;
  for (const v1::Unit& unit : plan.units()) {
    if (unit.kind() == v1::UNIT_CALIBRATE) {
      EXPECT_EQ(unit.phase(), 2 * unit.layer());
      EXPECT_EQ(unit.kept_points_size(), 4);
      continue;
    }
    ASSERT_EQ(unit.kind(), v1::UNIT_SENSE);
    EXPECT_EQ(unit.phase(), 2 * unit.layer() + 1);
    const v1::HessianSpec& spec = unit.hessian();
    EXPECT_EQ(spec.input().granularity(), v1::PER_TOKEN);
    for (const v1::Piece& piece : unit.pieces()) {
      EXPECT_EQ(piece.weight_out().end(), 0);
      if (spec.expert() >= 0) experts.insert(piece.source().name());
    }
    if (spec.expert() >= 0) continue;
    uint64_t& at = covered[{unit.layer(), spec.point()}];
    EXPECT_EQ(spec.token_begin(), at);  // parts in order, without a gap
    EXPECT_LE(spec.token_end() - spec.token_begin(), 1024u);
    at = spec.token_end();
  }
  for (const auto& [where, end] : covered) EXPECT_EQ(end, tokens);
  EXPECT_EQ(covered.size(), 3u * (has_experts() ? 2 : 4));
  EXPECT_EQ(experts.size(), has_experts() ? 3u * 4 * 3 : 0);
  EXPECT_EQ(std::set<std::string>(experts.begin(), experts.end()).size(), experts.size());
  EXPECT_GT(CalibrateBytes(plan).streamed, SenseMemoryBytes(plan));
  EXPECT_GT(SenseMemoryBytes(plan), 2u * 1024 * 192 * 4);
  EXPECT_GT(SpillBytes(plan), tokens * 96 * 2 * 3);
}

TEST_P(Sensed, BytesDependNeitherOnOrderNorOnKernelsNorOnMemory) {
  for (const char* preset : {"int8-dynamic", "fp8-block", "fp8-static"}) {
    Stages wide(BestIsa());
    Stages plain(Isa::kReference);
    Stages tight(BestIsa(), 9u << 20);
    const std::string name = preset;
    Made first = Job(name + "-a", *Preset(preset), 6);
    Made second = Job(name + "-b", *Preset(preset), 6);
    Made third = Job(name + "-c", *Preset(preset), 6);
    const auto files = Finished(&first, &wide, 1);
    EXPECT_EQ(files.size(), 2u);  // the manifest is the other one
    EXPECT_EQ(files, Finished(&second, &plain, 2));
    EXPECT_EQ(files, Finished(&third, &tight, 3, 3));
    const Sensitivity found = Of(files);
    EXPECT_EQ(found.groups.size(), 3u * 4);
    double share = 0;
    double before = found.groups.front().errors.both;
    for (const SensitivityGroup& group : found.groups) {
      EXPECT_LE(group.errors.both, before);  // what hurts most comes first
      before = group.errors.both;
      share += group.share;
      EXPECT_GT(group.errors.weights, 0);
      EXPECT_LT(group.errors.both, 0.01);
      EXPECT_EQ(group.inputs_measured, name != "fp8-static");
      if (group.inputs_measured) {
        EXPECT_GT(group.errors.both, group.errors.weights);
        EXPECT_GT(group.errors.inputs, 0);
      }
      EXPECT_NEAR(static_cast<double>(group.quantized_bytes),
                  static_cast<double>(group.source_bytes) / 2,
                  static_cast<double>(group.source_bytes) * 0.05);
    }
    EXPECT_NEAR(share, 1, 1e-12);
    for (const auto& [file, content] : Contents(ScratchDirOf(first.job.staging_dir()))) {
      EXPECT_FALSE(file.starts_with("kept-0-") || file.starts_with("kept-1-")) << file;
    }
  }
}

class SensedOutputs : public Sensed {
 protected:
  bool has_stacks() const { return std::string(GetParam()) == "dbrx"; }
  v1::Recipe Recipe() const {
    v1::Recipe recipe = *Preset("fp8-dynamic");
    if (!has_stacks()) return recipe;
    recipe.set_dialect(std::string(kFp8Dialect));
    recipe.mutable_rules(0)->mutable_scheme()->mutable_weight()->set_granularity(v1::PER_TENSOR);
    return recipe;
  }
};

// y = x W^T of what units kept of the last layer, by plain loops.
TEST_P(SensedOutputs, AreThoseOfWhatLayersRead) {
  Made made = Job("a", Recipe(), 60);
  Stages stages(BestIsa());
  Finished(&made, &stages, 1, 2);
  const std::string scratch = ScratchDirOf(made.job.staging_dir());
  const auto batches = static_cast<uint32_t>(made.plan.calibration().batches_size());
  using Key = std::pair<std::string, int32_t>;  // name and expert
  std::map<Key, double> got;
  std::map<Key, double> want;
  for (const v1::Unit& unit : made.plan.units()) {
    if (unit.kind() != v1::UNIT_SENSE || unit.layer() != 2) continue;
    const v1::HessianSpec& spec = unit.hessian();
    const auto columns = static_cast<size_t>(spec.channels());
    std::vector<uint16_t> x;
    for (uint32_t batch = 0; batch < batches; ++batch) {
      std::string bytes = ReadText(scratch + "/" + KeptFileName(2, batch, spec.point()));
      v1::LayerStats stats;
      ASSERT_TRUE(stats.ParseFromString(ReadText(scratch + "/" + StatsFileName(2, batch))));
      size_t row = 0;
      for (const v1::PointStat& stat : stats.points()) {
        if (stat.point() != spec.point()) continue;
        const size_t own = stat.rows() * columns;
        const auto* values = reinterpret_cast<const uint16_t*>(bytes.data()) + row;
        if (stat.expert() == spec.expert()) x.insert(x.end(), values, values + own);
        row += own;
      }
      EXPECT_EQ(row * 2, bytes.size());
    }
    const auto& outputs = made.receipts[unit.id()].outputs();
    for (int i = 0; i < unit.pieces_size(); ++i) {
      const v1::Piece& piece = unit.pieces(i);
      const v1::TensorSpec& source = piece.source();
      const Key key = {source.name(), spec.expert()};
      ASSERT_EQ(outputs[i].tensor(), source.name());
      got[key] += outputs[i].squared_output();
      const std::string file = ReadText(source_ + "/" + source.file());
      const auto* w = reinterpret_cast<const uint16_t*>(file.data() + source.begin()) +
                      piece.row_begin() * source.shape(1);
      const bool by_inputs = source.name().ends_with("w2");
      const int64_t outputs_of = by_inputs ? source.shape(1) : piece.row_end() - piece.row_begin();
      double sum = 0;
      for (size_t t = 0; t < x.size(); t += columns) {
        for (int64_t r = 0; r < outputs_of; ++r) {
          double y = 0;
          for (size_t k = 0; k < columns; ++k) {
            const auto row = static_cast<size_t>(r);
            const size_t at =
                by_inputs ? k * static_cast<size_t>(outputs_of) + row : row * columns + k;
            y += static_cast<double>(F32FromBf16(x[t + k])) * F32FromBf16(w[at]);
          }
          sum += y * y;
        }
      }
      want[key] = sum;
    }
  }
  EXPECT_EQ(got.size(), has_stacks() ? 2u + 4 * 3 : has_experts() ? 4u + 4 * 3 : 7u);
  for (const auto& [key, sum] : want) EXPECT_NEAR(got[key] / sum, 1, 1e-5) << key.first;
  const Sensitivity found = Of(Contents(made.job.staging_dir()));
  uint64_t bytes = 0;
  for (const SensitivityGroup& group : found.groups) bytes += group.source_bytes;
  uint64_t of_weights = 0;
  const auto checkpoint = OpenCheckpoint(source_);
  for (const v1::ModelTensor& tensor : checkpoint->tensors) {
    if (IsQuantizable(tensor.role())) of_weights += tensor.spec().end() - tensor.spec().begin();
  }
  EXPECT_EQ(bytes, of_weights);
}

INSTANTIATE_TEST_SUITE_P(Families, SensedOutputs,
                         ::testing::Values("llama", "qwen2", "mixtral", "dbrx"),
                         [](const auto& given) { return std::string(given.param); });

INSTANTIATE_TEST_SUITE_P(Families, Sensed, ::testing::Values("llama", "qwen2", "mixtral"),
                         [](const auto& given) { return std::string(given.param); });

TEST(SensedRefuses, WhatItWouldMeasureWrongly) {
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(Spec("llama"), 7, folder / "src").ok());
  const auto checkpoint = OpenCheckpoint(folder / "src");
  const v1::CalibrationSet set = RandomSamples(3, 3);
  const auto refused = [&](const v1::Recipe& recipe) {
    return ReasonOf(BuildSensitivityPlan(*checkpoint, recipe, MeasureAll(), set).status());
  };
  EXPECT_EQ(refused(*Preset("sparsegpt-24-fp8")), Reason::kUnsupported);
  v1::Recipe keeps = *Preset("fp8-dynamic");
  keeps.mutable_rules(0)->mutable_scheme()->clear_input();
  keeps.mutable_rules(0)->mutable_scheme()->mutable_weight()->Clear();
  keeps.mutable_rules(0)->mutable_scheme()->mutable_weight()->set_type(v1::NUMERIC_KEEP);
  EXPECT_EQ(refused(keeps), Reason::kUnsupported);
}

// A folder of measurements is none of the checkpoint, and the other way round.
TEST(SensedFolder, IsTakenForNothingElse) {
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(Spec("llama"), 7, folder / "src").ok());
  const auto checkpoint = OpenCheckpoint(folder / "src");
  const v1::Recipe recipe = *Preset("fp8-dynamic");
  const auto plan = [&](uint32_t seed) {
    return *BuildSensitivityPlan(*checkpoint, recipe, MeasureAll(), RandomSamples(3, seed));
  };
  const v1::CalibrationSet set = RandomSamples(3, 3);
  Made made = Staged(folder / "src", folder / "out", checkpoint, plan(3), set);
  Stages stages(BestIsa());
  Finished(&made, &stages, 1);
  ASSERT_TRUE(PublishFolder(made.job.staging_dir(), folder / "out", false).ok());
  const auto state = [&](const v1::Plan& asked) {
    return LookAtOutput(folder / "out", asked)->state;
  };
  EXPECT_EQ(state(plan(3)), OutputState::kSame);
  EXPECT_EQ(state(plan(4)), OutputState::kDifferent);
  EXPECT_EQ(state(*BuildPlan(*checkpoint, recipe)), OutputState::kDifferent);
}

}  // namespace
}  // namespace octavo
