// Steps find the memory that they need: it was taken at load, and no more than the plan says.

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/runner/tiny_model.h"
#include "worker/comm/local_group.h"
#include "worker/runner/runner.h"

namespace octavo::testing {
namespace {

constexpr uint32_t kTokens = 96;
constexpr uint32_t kSequences = 5;

v1::ServePlan PlanOf(const TinyModel& model, uint32_t ranks) {
  ServeOptions options;
  options.rank_count = ranks;
  options.max_batched_tokens = kTokens;
  options.max_sequences = kSequences;
  const auto plan = PlanServing(model.spec, model.tensors, options, model.cache_scales);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? *plan : v1::ServePlan();
}

// The largest step: kTokens in all, of kSequences that all want logits.
v1::Step LargestStep(const v1::ServePlan& plan) {
  const auto tokens = RandomTokens(kTokens, plan.model().vocab_size(), 5);
  v1::Step step;
  for (uint32_t i = 0; i < kTokens; ++i) {
    if (i < kSequences) {
      v1::StepChunk* chunk = step.add_chunks();
      chunk->set_logits_last(true);
      chunk->add_blocks(i);  // the last sequence has the rest of the tokens
    }
    step.mutable_chunks(step.chunks_size() - 1)->add_tokens(tokens[i]);
  }
  for (const uint32_t block : {kSequences, kSequences + 1}) {
    step.mutable_chunks(kSequences - 1)->add_blocks(block);
  }
  return step;
}

void ExpectNothingGrows(const TinyModel& model, uint32_t ranks) {
  const v1::ServePlan plan = PlanOf(model, ranks);
  const v1::Step step = LargestStep(plan);
  const auto group = MakeLocalGroup(static_cast<int>(ranks));
  std::vector<std::thread> threads;
  for (uint32_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      const auto runner =
          ModelRunner::Load(model.dir, plan, rank, group[rank].get(), {2, BestIsa(), 0});
      ASSERT_TRUE(runner.ok()) << runner.status();
      const uint64_t before = (*runner)->resident_bytes();
      Logits logits;
      const absl::Status status = (*runner)->Run(step, &logits);
      EXPECT_TRUE(status.ok()) << status;
      EXPECT_EQ((*runner)->resident_bytes(), before) << "rank " << rank << " of " << ranks;
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(Reserve, TheLargestStepFindsItsMemory) {
  for (const Format format :
       {Format::kBf16, Format::kFp8Dynamic, Format::kFp8Static, Format::kInt8}) {
    for (const v1::ModelSpec& spec : {RaggedSpec(), MixtureSpec()}) {
      const TinyModel model = WriteTinyModel(spec, format, 3, format == Format::kFp8Static);
      for (const uint32_t ranks : {1u, 3u}) ExpectNothingGrows(model, ranks);
    }
  }
  ExpectNothingGrows(WriteTinyModel(BlockSpec(), Format::kFp8Block, 3), 2);
  ExpectNothingGrows(WriteTinyModel(DbrxSpec(), Format::kBf16, 3), 2);
}

// Many tokens: what is taken is scratch of the plan, also where keys are as many as queries.
TEST(Reserve, StaysWithinThePlan) {
  v1::ModelSpec spec = RaggedSpec();
  spec.set_hidden_size(512);
  spec.set_intermediate_size(1024);
  spec.set_head_count(8);
  spec.set_kv_head_count(8);
  spec.set_head_dim(64);
  spec.set_max_position(4096);
  for (const Format format : {Format::kBf16, Format::kFp8Static}) {
    const TinyModel model = WriteTinyModel(spec, format, 3);
    ServeOptions options;
    options.max_batched_tokens = 2048;
    options.max_sequences = 64;
    const auto plan = PlanServing(model.spec, model.tensors, options);
    ASSERT_TRUE(plan.ok()) << plan.status();
    const auto group = MakeLocalGroup(1);
    const auto runner = ModelRunner::Load(model.dir, *plan, 0, group[0].get(), {2, BestIsa(), 0});
    ASSERT_TRUE(runner.ok()) << runner.status();
    const v1::RankPlan& rank = plan->ranks(0);
    EXPECT_GT((*runner)->resident_bytes(), rank.weight_bytes() + rank.kv_bytes());
    // Nearly all of what the plan counts are matrices.
    const WeightBytes held = (*runner)->weight_bytes();
    EXPECT_NEAR(static_cast<double>(held.all()), static_cast<double>(rank.weight_bytes()),
                0.02 * static_cast<double>(rank.weight_bytes()));
    EXPECT_EQ(held.fp8 > 0, format == Format::kFp8Static);
    EXPECT_GT(held.bf16, 0u);  // the embedding and the head at least
    EXPECT_EQ(held.int8, 0u);
    EXPECT_LE((*runner)->resident_bytes(),
              rank.weight_bytes() + rank.kv_bytes() + rank.scratch_bytes());
  }
}

}  // namespace
}  // namespace octavo::testing
