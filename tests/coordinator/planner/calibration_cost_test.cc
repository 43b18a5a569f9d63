// What a plan foretells of a calibrated job.

#include "coordinator/planner/calibration_cost.h"

#include "coordinator/planner/calibration_plan.h"
#include "coordinator/planner/estimate.h"
#include "coordinator/planner/quantize_plan.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/synth.h"
#include "core/plan/layer_plan.h"
#include "core/scheme/recipe.h"
#include "gtest/gtest.h"
#include "tests/fakes/tiny_llama.h"

namespace octavo {
namespace {

constexpr int kSamples = 64;
constexpr int kLength = 32;

// Two layers, eight experts of which a token visits two, 64 samples of 32 tokens.
class CalibrationCostTest : public ::testing::Test {
 protected:
  CalibrationCostTest() {
    SynthSpec spec;
    spec.model.set_family("mixtral");
    spec.model.set_hidden_size(64);
    spec.model.set_intermediate_size(96);
    spec.model.set_layer_count(2);
    spec.model.set_head_count(4);
    spec.model.set_kv_head_count(2);
    spec.model.set_expert_count(8);
    spec.model.set_experts_per_token(2);
    spec.model.set_vocab_size(320);
    EXPECT_TRUE(WriteSynthetic(spec, 7, folder_ / "src").ok());
  }

  v1::Plan PlanWithQuota(uint32_t quota) const {
    v1::Recipe recipe = *Preset("fp8-static");
    recipe.mutable_calibration()->set_expert_quota(quota);
    v1::CalibrationSet set;
    for (int i = 0; i < kSamples; ++i) set.add_sample_lengths(kLength);
    auto plan = BuildPlan(*OpenCheckpoint(folder_ / "src"), recipe, set);
    EXPECT_TRUE(plan.ok()) << plan.status();
    return *std::move(plan);
  }

  const TestFolder folder_;
};

TEST_F(CalibrationCostTest, CountsWhatTheLayersMultiply) {
  const double attention = 64 * 64 * 2 + 64 * 32 * 2;  // q, o; k, v
  const double router = 64 * 8;
  const double expert = 64 * 96;  // each of three matrices
  const double pairs = 2.0 * 64 * (kLength + 1);
  const double natural = 2 * (attention + router + 2 * 3 * expert) + pairs;
  const double tokens = 2.0 * kSamples * kLength;
  EXPECT_DOUBLE_EQ(CostOfCalibration(PlanWithQuota(0)).operations, tokens * natural);
  // 64 tokens of each expert, one of a sample of 32: the router sends it a quarter anyway.
  EXPECT_DOUBLE_EQ(CostOfCalibration(PlanWithQuota(64)).operations, tokens * natural);
  // All eight see all tokens with gate and up; down runs for the two.
  const double all = natural + 2 * 6 * 2 * expert;
  const CalibrationCost cost = CostOfCalibration(PlanWithQuota(kExpertQuotaAll));
  EXPECT_DOUBLE_EQ(cost.operations, tokens * all);
  EXPECT_EQ(cost.batches, 32u);
  EXPECT_DOUBLE_EQ(cost.longest_chain, cost.operations / 32);
  EXPECT_EQ(cost.spilled_bytes, tokens * 64 * 2);
  EXPECT_EQ(cost.streamed_bytes, 32 * cost.weight_bytes);
}

TEST_F(CalibrationCostTest, MoreMachinesHelpUntilSomethingElseLimits) {
  const v1::Plan plan = PlanWithQuota(0);
  MachineRates rates = {.read = 1e12, .write = 1e12, .disk = 1e12, .cast = 1e12, .verify = 1e12};
  rates.products_core = 1e6;
  rates.products_all = 4e6;
  rates.cores = 4;
  const auto seconds = [&](int workers, const char* limit) {
    const Estimate estimate = EstimateJob(plan, rates, {.workers = workers, .own_machines = true});
    EXPECT_EQ(estimate.limit, limit);
    return estimate.seconds.value_or(-1);
  };
  const double one = seconds(1, "compute");
  EXPECT_NEAR(one / seconds(4, "compute"), 4, 0.1);
  // 32 micro-batches keep 32 cores busy: eight machines of four.
  EXPECT_NEAR(one / seconds(256, "micro-batches"), 8, 0.2);
  rates.disk = 1e4;  // every machine reads the layers that it works on
  EXPECT_GT(seconds(256, "disk"), seconds(1, "disk"));
  EXPECT_FALSE(EstimateJob(plan, {.read = 1, .write = 1, .disk = 1, .cast = 1, .verify = 1}, {})
                   .seconds.has_value());
}

TEST_F(CalibrationCostTest, LittleMemoryReadsLayersForEveryMicroBatch) {
  const v1::Plan plan = PlanWithQuota(0);
  const MachineRates rates;  // of a machine nobody measured: these figures need none
  const CalibrationCost cost = CostOfCalibration(plan);
  const Estimate enough = EstimateJob(plan, rates, {});
  EXPECT_FALSE(enough.seconds.has_value());
  EXPECT_GT(enough.operations, 0);
  EXPECT_EQ(enough.operations, cost.operations);
  EXPECT_EQ(enough.layer_reread_bytes, cost.weight_bytes);
  const uint64_t least = enough.memory_bytes_resident;
  EXPECT_EQ(EstimateJob(plan, rates, {.memory_bytes = least}).layer_reread_bytes,
            cost.weight_bytes);
  EXPECT_EQ(EstimateJob(plan, rates, {.memory_bytes = least - 1}).layer_reread_bytes,
            cost.streamed_bytes);
}

TEST(MemoryForCalibrating, IsTheLeastThatLeavesSoMuch) {
  for (const uint64_t bytes : {1u << 20, 255u << 20, 256u << 20, 257u << 20, 3u << 30}) {
    EXPECT_GE(CalibratingBytes(MemoryForCalibrating(bytes)), bytes);
    EXPECT_LT(CalibratingBytes(MemoryForCalibrating(bytes) - 2), bytes);
  }
  EXPECT_EQ(CalibratingBytes(1), 0u);
}

}  // namespace
}  // namespace octavo
