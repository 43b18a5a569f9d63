#include "worker/serve/engine.h"

#include <chrono>
#include <thread>

#include "core/base/error.h"
#include "gtest/gtest.h"
#include "tests/worker/serve/fake_group.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using News = EngineCall::News;

TEST(Engine, GeneratesUntilMaxTokens) {
  FakeGroup group(2);
  const auto call = *group.engine->Generate(Request({3, 4, 5}, 4));
  const v1::EngineEvent event = FakeGroup::Drain(*call);
  EXPECT_EQ(Ids(event), (std::vector<int32_t>{6, 7, 8, 9}));
  EXPECT_EQ(event.finish(), v1::FINISH_LENGTH);
  EXPECT_EQ(group.steps, 4);
  // The last event leaves before its blocks are free.
  for (int i = 0; i < 500 && group.engine->figures().kv_blocks_free != 64u; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(group.engine->figures().kv_blocks_free, 64u);
}

TEST(Engine, StopsAtAStopId) {
  FakeGroup group;
  v1::EngineRequest request = Request({3}, 100);
  request.add_stop_ids(12);
  request.add_stop_ids(6);
  const v1::EngineEvent event = FakeGroup::Drain(**group.engine->Generate(request));
  EXPECT_EQ(Ids(event), (std::vector<int32_t>{4, 5, 6}));
  EXPECT_EQ(event.finish(), v1::FINISH_STOP);
  EXPECT_EQ(event.stop_id(), 6);
}

TEST(Engine, ScoresTheSameInAnyChunks) {
  FakeGroup group(1);
  v1::EngineScoreRequest request;
  for (int i = 0; i < 300; ++i) request.add_ids((i * i) % 16);
  request.set_want_digests(true);
  std::vector<v1::EngineScoreResponse> scores;
  for (const uint32_t chunk : {0u, 1u, 7u, 64u}) {
    request.set_chunk(chunk);
    const auto call = *group.engine->Score(request);
    FakeGroup::Drain(*call);
    scores.push_back(call->TakeScore());
  }
  ASSERT_EQ(scores[0].logprobs_size(), 299);
  ASSERT_EQ(scores[0].digests_size(), 300);
  double sum = 0;
  for (const float logprob : scores[0].logprobs()) sum -= static_cast<double>(logprob);
  EXPECT_NEAR(scores[0].nll_sum(), sum, 1e-9);
  for (const auto& score : scores) {
    for (int i = 0; i < 299; ++i) EXPECT_EQ(score.logprobs(i), scores[0].logprobs(i));
    for (int i = 0; i < 300; ++i) EXPECT_TRUE(Equal(score.digests(i), scores[0].digests(i)));
  }
}

TEST(Engine, LogitsComeChunkByChunkAsTheyAreTaken) {
  FakeGroup group(1);
  v1::EngineScoreRequest request = Squares(150);
  request.set_chunk(64);
  const auto call = *group.engine->Logits(request);
  std::vector<size_t> sizes;
  uint32_t position = 0;
  while (position < 150) {
    AwaitRows(*call);
    // Nothing more is computed while these rows wait.
    std::this_thread::sleep_for(milliseconds(60));
    EXPECT_EQ(static_cast<size_t>(group.steps), sizes.size() + 1);
    const std::optional<EngineCall::Rows> rows = group.engine->TakeRows(*call);
    ASSERT_TRUE(rows.has_value());
    EXPECT_EQ(rows->start, position);
    sizes.push_back(rows->logits.size() / kVocab);
    for (size_t i = 0; i < sizes.back(); ++i, ++position) {
      const int32_t id = request.ids(static_cast<int>(position));
      for (int32_t v = 0; v < kVocab; ++v) {
        const float expected = v == (id + 1) % 16 ? 10.0f - static_cast<float>(id) / 4 : 0.0f;
        EXPECT_EQ(rows->logits[i * kVocab + static_cast<size_t>(v)], expected);
      }
    }
  }
  EXPECT_EQ(sizes, (std::vector<size_t>{64, 64, 22}));
  EXPECT_EQ(FakeGroup::Drain(*call).finish(), v1::FINISH_STOP);
  EXPECT_FALSE(group.engine->TakeRows(*call).has_value());
}

TEST(Engine, ResidualStreamsComeWithTheirRows) {
  FakeGroup group(1);
  for (const bool wanted : {true, false}) {
    v1::EngineScoreRequest request = Squares(100);
    request.set_chunk(64);
    request.set_want_residuals(wanted);
    const auto call = *group.engine->Logits(request);
    uint32_t position = 0;
    while (position < 100) {
      AwaitRows(*call);
      const std::optional<EngineCall::Rows> rows = group.engine->TakeRows(*call);
      ASSERT_TRUE(rows.has_value());
      const size_t count = rows->logits.size() / kVocab;
      ASSERT_EQ(rows->residuals.size(), wanted ? count * kLayers * kHidden : 0);
      for (size_t i = 0; i < rows->residuals.size(); ++i) {
        EXPECT_EQ(rows->residuals[i], position + i / (kLayers * kHidden));
      }
      position += static_cast<uint32_t>(count);
    }
  }
  // A score has no use for them.
  v1::EngineScoreRequest score = Squares(20);
  score.set_want_residuals(true);
  EXPECT_EQ(FakeGroup::Drain(**group.engine->Score(score)).finish(), v1::FINISH_STOP);
}

TEST(Engine, LogitsThatNobodyTakesEndByCancelOrDeadline) {
  FakeGroup group(0, FakeLimits(1));
  v1::EngineScoreRequest request = Squares(150);
  request.set_chunk(64);
  const auto call = *group.engine->Logits(request);
  AwaitRows(*call);
  const auto late = *group.engine->Logits(request, Clock::System().Now() + milliseconds(300));
  group.engine->Cancel(*call);
  AwaitRows(*late);
  EXPECT_TRUE(group.engine->TakeRows(*call).has_value());
  EXPECT_EQ(FakeGroup::Drain(*call).finish(), v1::FINISH_CANCELLED);
  // The deadline frees its place for the next.
  const auto next = *group.engine->Generate(Request({8}, 2));
  EXPECT_EQ(Ids(FakeGroup::Drain(*next)), (std::vector<int32_t>{9, 10}));
  EXPECT_TRUE(group.engine->TakeRows(*late).has_value());
  EXPECT_EQ(FakeGroup::Drain(*late).finish(), v1::FINISH_DEADLINE);
}

TEST(Engine, CancelActsWithinAStepAndFreesTheNext) {
  FakeGroup group;
  group.delay_ms = 5;
  const auto first = *group.engine->Generate(Request({3}, 1000));
  const auto second = *group.engine->Generate(Request({8}, 2));
  v1::EngineEvent event;
  while (first->Wait(milliseconds(50), &event) != News::kEvent) {
  }
  const int before = group.steps;
  group.engine->Cancel(*first);
  EXPECT_EQ(FakeGroup::Drain(*first).finish(), v1::FINISH_CANCELLED);
  EXPECT_LE(group.steps - before, 3);
  EXPECT_EQ(Ids(FakeGroup::Drain(*second)), (std::vector<int32_t>{9, 10}));
}

TEST(Engine, CountsCallsUntilTheirCallersLetGo) {
  FakeGroup group;
  EXPECT_EQ(group.engine->figures().calls, 0u);
  auto first = *group.engine->Generate(Request({3}, 1));
  auto second = *group.engine->Generate(Request({8}, 1));
  FakeGroup::Drain(*first);
  FakeGroup::Drain(*second);
  // The engine's own hold ends with the step that brought the end.
  const auto until = Clock::System().Now() + std::chrono::seconds(10);
  first.reset();
  while (group.engine->figures().calls != 1 && Clock::System().Now() < until) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_EQ(group.engine->figures().calls, 1u);
  // A call may outlive its engine.
  group.engine.reset();
  v1::EngineEvent event;
  EXPECT_EQ(second->Wait(milliseconds(1), &event), News::kFinished);
}

TEST(Engine, DeadlinesEndQueuedAndRunningCalls) {
  FakeGroup group;
  group.delay_ms = 5;
  const auto now = Clock::System().Now();
  const auto running = *group.engine->Generate(Request({3}, 1000), now + milliseconds(80));
  const auto queued = *group.engine->Generate(Request({3}, 1000), now + milliseconds(40));
  EXPECT_EQ(FakeGroup::Drain(*queued).finish(), v1::FINISH_DEADLINE);
  const v1::EngineEvent event = FakeGroup::Drain(*running);
  EXPECT_EQ(event.finish(), v1::FINISH_DEADLINE);
  EXPECT_GT(event.tokens_size(), 2);
  EXPECT_EQ(ReasonOf(group.engine->Generate(Request({3}, 1), now).status()), Reason::kDeadline);
}

TEST(Engine, RejectsByReason) {
  FakeGroup group(0, FakeLimits(1));
  group.delay_ms = 20;
  EXPECT_EQ(ReasonOf(group.engine->Generate(Request({16}, 1)).status()), Reason::kBadRequest);
  EXPECT_EQ(ReasonOf(group.engine->Generate(Request({-1}, 1)).status()), Reason::kBadRequest);
  EXPECT_EQ(ReasonOf(group.engine->Generate(Request({1}, 0)).status()), Reason::kBadRequest);
  v1::EngineRequest hot = Request({1}, 1);
  hot.mutable_sampling()->set_temperature(-3);
  EXPECT_EQ(ReasonOf(group.engine->Generate(hot).status()), Reason::kBadRequest);
  std::vector<std::shared_ptr<EngineCall>> calls;
  absl::Status full;
  while (full.ok()) {
    auto call = group.engine->Generate(Request({1}, 1000));
    full = call.status();
    if (call.ok()) calls.push_back(*call);
    ASSERT_LT(calls.size(), 5u);
  }
  EXPECT_EQ(ReasonOf(full), Reason::kQueueFull);
}

TEST(Engine, ADifferenceBetweenRanksEndsTheGroup) {
  FakeGroup group(2);
  group.spoil_digest = true;
  const auto call = *group.engine->Generate(Request({3}, 10));
  FakeGroup::Drain(*call);
  EXPECT_EQ(ReasonOf(call->failure()), Reason::kStateMismatch);
  EXPECT_EQ(ReasonOf(group.engine->Generate(Request({3}, 1)).status()), Reason::kStateMismatch);
  for (int i = 0; i < 100 && group.broken == 0; ++i) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_EQ(group.broken, 1);
}

TEST(Engine, AFailedStepFailsEveryCallWithItsReason) {
  FakeGroup group;
  group.run_failure = MakeError(Reason::kGroupLost, "rank 1 closed");
  const auto call = *group.engine->Generate(Request({3}, 10));
  FakeGroup::Drain(*call);
  EXPECT_EQ(ReasonOf(call->failure()), Reason::kGroupLost);
}

TEST(Engine, AbortFailsCallsWithoutWaitingForTheStep) {
  FakeGroup group;
  group.delay_ms = 1500;
  const auto call = *group.engine->Generate(Request({3}, 10));
  std::this_thread::sleep_for(milliseconds(50));
  const auto start = std::chrono::steady_clock::now();
  group.engine->Abort(MakeError(Reason::kGroupLost, "rank 1 was lost"));
  FakeGroup::Drain(*call);
  EXPECT_EQ(ReasonOf(call->failure()), Reason::kGroupLost);
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(500));
}

TEST(Follower, RefusesOtherEpochsAndGaps) {
  Follower follower(5, [](const v1::Step&) { return absl::OkStatus(); });
  v1::Step step;
  step.set_group_epoch(5);
  step.set_index(0);
  EXPECT_FALSE(follower.Execute(step).has_failure());
  step.set_index(2);
  EXPECT_EQ(follower.Execute(step).failure().reason(), "STATE_MISMATCH");
  step.set_index(1);
  EXPECT_EQ(follower.Execute(step).failure().reason(), "STATE_MISMATCH");
  Follower other(6, [](const v1::Step&) { return absl::OkStatus(); });
  EXPECT_EQ(other.Execute(step).failure().reason(), "FENCED");
}

TEST(StepState, EveryPartCounts) {
  v1::Step step;
  v1::StepChunk* chunk = step.add_chunks();
  chunk->add_tokens(1);
  chunk->add_blocks(2);
  const v1::Digest base = StepState().Advance(step);
  for (int change = 0; change < 5; ++change) {
    v1::Step other = step;
    if (change == 0) other.set_index(1);
    if (change == 1) other.mutable_chunks(0)->set_tokens(0, 3);
    if (change == 2) other.mutable_chunks(0)->set_blocks(0, 3);
    if (change == 3) other.mutable_chunks(0)->set_start(3);
    if (change == 4) other.mutable_chunks(0)->set_sequence(3);
    EXPECT_FALSE(Equal(StepState().Advance(other), base)) << change;
  }
  StepState twice;
  (void)twice.Advance(step);
  EXPECT_FALSE(Equal(twice.Advance(step), base));
}

}  // namespace
}  // namespace octavo
