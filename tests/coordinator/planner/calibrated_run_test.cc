// A calibrated job in one process: plan, stage, micro-batches through layers, casts, scales.

#include "tests/coordinator/planner/calibrated_run.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include "core/base/error.h"
#include "core/scheme/recipe.h"
#include "core/tensor/bare/float_bits.h"
#include "gmock/gmock.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

class Calibrated : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    source_ = folder_ / "src";
    ASSERT_TRUE(WriteSynthetic(Spec(GetParam()), 7, source_).ok());
  }
  Made Job(const std::string& name, const v1::Recipe& recipe) {
    return Prepare(source_, folder_ / name, recipe, RandomSamples(12, 3));
  }
  const TestFolder folder_;
  std::string source_;
};

TEST_P(Calibrated, BytesDependNeitherOnOrderNorOnKernelsNorOnMemory) {
  for (const std::string observer : {"absmax", "mse"}) {
    v1::Recipe recipe = *Preset("fp8-static-kv");
    if (observer == "mse") recipe.mutable_calibration()->set_observer(v1::OBSERVER_MSE);
    Stages wide(BestIsa());
    Stages plain(Isa::kReference);
    Stages tight(BestIsa(), 9u << 20);  // one layer at a time
    Made first = Job("a" + observer, recipe);
    Made second = Job("b" + observer, recipe);
    Made third = Job("c" + observer, recipe);
    const auto bytes = Finished(&first, &wide, 1);
    EXPECT_EQ(bytes, Finished(&second, &plain, 2));
    EXPECT_EQ(bytes, Finished(&third, &tight, 3, 3));
    EXPECT_LE(tight.calibrate.bytes_in_use(), 9u << 20);
    EXPECT_GT(wide.calibrate.bytes_in_use(), 0u);
    wide.calibrate.DropIdle();
    EXPECT_EQ(wide.calibrate.bytes_in_use(), 0u);
    const auto left = Contents(ScratchDirOf(first.job.staging_dir()));
    const auto batches = static_cast<size_t>(first.plan.calibration().batches_size());
    // Ids, statistics of three layers, and the rows that go into the last two.
    EXPECT_EQ(left.size(), 1 + 3 * batches + batches);
  }
}

// The input of the first attention is the norm of embedding rows: easily found without the decoder.
TEST_P(Calibrated, FirstInputScaleIsTheMaximumOfNormedEmbeddings) {
  Made run = Job("out", *Preset("fp8-static"));
  Stages stages(BestIsa());
  const auto files = Finished(&run, &stages, 4);
  const auto source = OpenCheckpoint(source_);
  ASSERT_TRUE(source.ok());
  const auto values = [&](v1::TensorRole role, int32_t layer) {
    for (const auto& tensor : source->tensors) {
      if (tensor.role() != role || tensor.layer() != layer) continue;
      const v1::TensorSpec& spec = tensor.spec();
      const std::string bytes = ReadText(std::filesystem::path(source_) / spec.file())
                                    .substr(spec.begin(), spec.end() - spec.begin());
      std::vector<float> out(bytes.size() / 2);
      for (size_t i = 0; i < out.size(); ++i) {
        uint16_t bits;
        std::memcpy(&bits, bytes.data() + 2 * i, 2);
        out[i] = F32FromBf16(bits);
      }
      return out;
    }
    return std::vector<float>();
  };
  const std::vector<float> embedding = values(v1::EMBEDDING, -1);
  const std::vector<float> norm = values(v1::ATTENTION_NORM, 0);
  const v1::CalibrationSet set = RandomSamples(12, 3);
  float amax = 0;
  for (size_t at = 0; at < set.ids().size(); at += 4) {
    int32_t id;
    std::memcpy(&id, set.ids().data() + at, 4);
    double sum = 0;
    for (int k = 0; k < 96; ++k) sum += std::pow(embedding[id * 96 + k], 2.0);
    for (int k = 0; k < 96; ++k) {
      const auto normed = static_cast<float>(embedding[id * 96 + k] / std::sqrt(sum / 96 + 1e-5));
      amax = std::max(amax, std::fabs(F32FromBf16(Bf16FromF32(normed)) * norm[k]));
    }
  }
  int checked = 0;
  for (const v1::Receipt& receipt : run.receipts) {
    for (const v1::ScaleReport& report : receipt.scales()) {
      if (report.tensor() != "model.layers.0.self_attn.k_proj.input_scale") continue;
      EXPECT_NEAR(report.amax(), amax, amax * 0x1p-7);
      EXPECT_EQ(report.scale(), report.amax() / 448);
      EXPECT_EQ(report.rows(), set.ids().size() / 4);
      ++checked;
    }
  }
  EXPECT_EQ(checked, 1);
}

TEST_P(Calibrated, AUnitMayRunAgainAndAnEndedJobFencesIt) {
  Made run = Job("out", *Preset("fp8-static"));
  Stages stages(BestIsa());
  ASSERT_TRUE(DoUnit(&run, &stages, 0).ok());
  const v1::Receipt first = run.receipts[0];
  ASSERT_TRUE(DoUnit(&run, &stages, 0).ok());
  ASSERT_EQ(first.scratch_size(), 2);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(first.scratch(i).SerializeAsString(), run.receipts[0].scratch(i).SerializeAsString());
  }
  ASSERT_TRUE(RemoveFolder(ScratchDirOf(run.job.staging_dir())).ok());
  EXPECT_EQ(ReasonOf(DoUnit(&run, &stages, 0)), Reason::kFenced);
}

TEST_P(Calibrated, SaysWhatDoesNotFit) {
  Made run = Job("out", *Preset("fp8-static"));
  Stages small(BestIsa(), 1u << 20);
  const absl::Status refused = DoUnit(&run, &small, 0);
  EXPECT_EQ(ReasonOf(refused), Reason::kOutOfMemory);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("1048576"));
  // An id outside the vocabulary.
  const int32_t wrong = kVocabulary;
  LocalStore store;
  const std::string ids = JoinPath(ScratchDirOf(run.job.staging_dir()), kIdsFileName);
  ASSERT_TRUE(store.WriteAt(ids, 4, std::as_bytes(std::span(&wrong, 1))).ok());
  Stages stages(BestIsa());
  const absl::Status outside = DoUnit(&run, &stages, 0);
  EXPECT_EQ(ReasonOf(outside), Reason::kBadData);
  EXPECT_THAT(std::string(outside.message()), HasSubstr("token id 320"));
}

TEST_P(Calibrated, AnotherCalibrationMakesAnotherOutput) {
  Made run = Job("out", *Preset("fp8-static"));
  Stages stages(BestIsa());
  Finished(&run, &stages, 1);
  const std::string out = folder_ / "out";
  ASSERT_TRUE(PublishFolder(run.job.staging_dir(), out, /*overwrite=*/false).ok());
  EXPECT_EQ(LookAtOutput(out, run.plan)->state, OutputState::kSame);
  v1::CalibrationSet cut = RandomSamples(12, 3);  // the same ids in other places
  cut.set_sample_lengths(0, cut.sample_lengths(0) - 1);
  cut.set_sample_lengths(1, cut.sample_lengths(1) + 1);
  for (const v1::CalibrationSet& set : {RandomSamples(12, 4), cut}) {
    const Made other = Prepare(source_, folder_ / "other", *Preset("fp8-static"), set);
    const auto look = LookAtOutput(out, other.plan);
    EXPECT_EQ(look->state, OutputState::kDifferent);
    EXPECT_EQ(look->found, "made with another calibration");
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Calibrated, ::testing::Values("llama", "mixtral"));

// One sample of one token: the router sends it to two of the four experts.
TEST(CalibratedExperts, SeeTheirQuotaOrTheJobSaysWhichSawNothing) {
  const TestFolder folder;
  const std::string source = folder / "src";
  ASSERT_TRUE(WriteSynthetic(Spec("mixtral"), 7, source).ok());
  v1::CalibrationSet set;
  set.add_sample_lengths(1);
  set.set_ids(std::string(4, '\0'));
  Stages stages(BestIsa());
  v1::Recipe recipe = *Preset("fp8-static");
  Made covered = Prepare(source, folder / "covered", recipe, set);
  Finished(&covered, &stages, 1);
  std::map<uint64_t, int> by_routed;
  for (const v1::Receipt& receipt : covered.receipts) {
    for (const v1::ExpertCoverage& expert : receipt.experts()) {
      EXPECT_EQ(expert.rows(), 1u);
      ++by_routed[expert.routed()];
    }
  }
  // In each of three layers.
  EXPECT_THAT(by_routed, ::testing::UnorderedElementsAre(std::pair(0, 6), std::pair(1, 6)));

  recipe.mutable_calibration()->set_expert_quota(0);
  Made natural = Prepare(source, folder / "natural", recipe, set);
  const absl::Status refused = Workers(&natural, &stages, 1).Run(1);
  EXPECT_EQ(ReasonOf(refused), Reason::kBadData);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("saw no token at layer "));
}

TEST(CalibrationPlan, CutsMicroBatchesBySamplesAlone) {
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(Spec("llama"), 7, folder / "src").ok());
  const auto checkpoint = OpenCheckpoint(folder / "src");
  ASSERT_TRUE(checkpoint.ok());
  v1::CalibrationSet set;
  for (int i = 0; i < 128; ++i) set.add_sample_lengths(512);
  auto plan = PlanCalibration(*checkpoint, set);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->batches_size(), 64);
  uint64_t token = 0;
  for (const v1::MicroBatch& batch : plan->batches()) {
    EXPECT_EQ(batch.token_begin(), token);
    EXPECT_EQ(batch.token_end() - batch.token_begin(), 1024u);
    EXPECT_EQ(batch.sample_end() - batch.sample_begin(), 2u);
    token = batch.token_end();
  }
  set.add_sample_lengths(0);
  EXPECT_EQ(ReasonOf(PlanCalibration(*checkpoint, set).status()), Reason::kBadRequest);
  set.set_sample_lengths(128, 2049);  // the model has 2048 positions
  EXPECT_EQ(ReasonOf(PlanCalibration(*checkpoint, set).status()), Reason::kBadRequest);
  EXPECT_EQ(ReasonOf(PlanCalibration(*checkpoint, {}).status()), Reason::kBadRequest);
}

}  // namespace
}  // namespace octavo
