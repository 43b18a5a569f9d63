// Many sequences in one engine.

#include <chrono>

#include "gtest/gtest.h"
#include "tests/worker/serve/fake_group.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using News = EngineCall::News;

// What `group` makes of many requests at once; the same as what it makes of each alone.
void ExpectTheTokensOfEachAlone(FakeGroup& group, const std::vector<v1::EngineRequest>& requests) {
  std::vector<std::shared_ptr<EngineCall>> calls;
  for (const v1::EngineRequest& request : requests) {
    calls.push_back(*group.engine->Generate(request));
  }
  std::vector<std::vector<int32_t>> together;
  for (const auto& call : calls) together.push_back(Ids(FakeGroup::Drain(*call)));
  FakeGroup alone(0, FakeLimits(1));
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(Ids(FakeGroup::Drain(**alone.engine->Generate(requests[i]))), together[i]);
    EXPECT_EQ(together[i].size(), requests[i].max_tokens());
  }
}

std::vector<v1::EngineRequest> MixedRequests(int count, uint32_t tokens) {
  std::vector<v1::EngineRequest> requests;
  for (int i = 0; i < count; ++i) {
    std::vector<int32_t> prompt;
    for (int j = 0; j < 5 + 11 * i; ++j) prompt.push_back((i * 3 + j * j) % kVocab);
    requests.push_back(Request(prompt, tokens + static_cast<uint32_t>(i)));
    if (i % 2 == 0) continue;
    requests.back().mutable_sampling()->set_temperature(4);
    requests.back().mutable_sampling()->set_seed(static_cast<uint64_t>(i));
  }
  return requests;
}

TEST(EngineBatching, ManySequencesShareAStepAndKeepTheirTokens) {
  SchedulerLimits limits = FakeLimits();
  limits.queue_max = 20;
  FakeGroup group(2, limits);
  group.delay_ms = 1;
  ExpectTheTokensOfEachAlone(group, MixedRequests(12, 30));
  EXPECT_LT(group.steps, 12 * 30 / 3);
  EXPECT_EQ(group.engine->figures().preemptions, 0u);
  EXPECT_EQ(group.engine->figures().let_in_again, 0u);
}

TEST(EngineBatching, TokensAreTheSameOnAnyNumberOfThreads) {
  SchedulerLimits limits = FakeLimits();
  limits.queue_max = 20;
  for (const int threads : {1, 2, 5}) {
    FakeGroup group(1, limits, threads);
    group.delay_ms = 1;
    ExpectTheTokensOfEachAlone(group, MixedRequests(12, 30));
    EXPECT_EQ(group.spreads > 0, threads > 1);
  }
}

TEST(EngineBatching, PreemptedSequencesGoOnAsIfNothingHadHappened) {
  SchedulerLimits limits = FakeLimits();
  limits.queue_max = 20;
  limits.block_count = 7;
  FakeGroup group(1, limits);
  group.delay_ms = 1;
  const std::vector<v1::EngineRequest> requests = MixedRequests(8, 90);
  ExpectTheTokensOfEachAlone(group, requests);
  const EngineFigures figures = group.engine->figures();
  EXPECT_GT(figures.preemptions, 0u);
  // Every prompt is let in as new once; what was found in the cache is not computed, new or again.
  uint64_t prompts = 0;
  for (const v1::EngineRequest& request : requests) {
    prompts += static_cast<uint64_t>(request.prompt_size());
  }
  EXPECT_EQ(figures.let_in_new + figures.prefix_tokens_found, prompts);
  EXPECT_GT(figures.let_in_again, 0u);
}

TEST(EngineBatching, WhatTheCacheHasIsSaidOnce) {
  FakeGroup group(1);
  std::vector<int32_t> prompt;
  for (int i = 0; i < 100; ++i) prompt.push_back(i % kVocab);
  v1::EngineRequest request = Request(prompt, 5);
  const v1::EngineEvent first = FakeGroup::Drain(**group.engine->Generate(request));
  EXPECT_EQ(first.cached_tokens(), 0u);
  const v1::EngineEvent second = FakeGroup::Drain(**group.engine->Generate(request));
  EXPECT_EQ(second.cached_tokens(), 96u);
  EXPECT_EQ(Ids(second), Ids(first));
  EXPECT_EQ(group.engine->figures().prefix_tokens, 200u);
  EXPECT_EQ(group.engine->figures().prefix_tokens_found, 96u);
  request.set_no_prefix_cache(true);
  EXPECT_EQ(FakeGroup::Drain(**group.engine->Generate(request)).cached_tokens(), 0u);
  EXPECT_EQ(group.engine->figures().prefix_tokens, 200u);
}

TEST(EngineBatching, LogitsThatNobodyTakesStopNobodyElse) {
  FakeGroup group(1);
  v1::EngineScoreRequest request = Squares(150);
  request.set_chunk(64);
  const auto call = *group.engine->Logits(request);
  AwaitRows(*call);
  EXPECT_EQ(Ids(FakeGroup::Drain(**group.engine->Generate(Request({8}, 3)))),
            (std::vector<int32_t>{9, 10, 11}));
  EXPECT_EQ(FakeGroup::Drain(**group.engine->Score(Squares(20))).finish(), v1::FINISH_STOP);
  EXPECT_EQ(group.engine->TakeRows(*call)->start, 0u);
  AwaitRows(*call);
  EXPECT_EQ(group.engine->TakeRows(*call)->start, 64u);
}

TEST(EngineBatching, ALowerPriorityNumberIsServedFirst) {
  FakeGroup group(0, FakeLimits(1));
  group.delay_ms = 5;
  const auto first = *group.engine->Generate(Request({3}, 20));
  v1::EngineEvent event;
  while (first->Wait(milliseconds(50), &event) != News::kEvent) {
  }
  const auto later = *group.engine->Generate(Request({3}, 20));
  v1::EngineRequest urgent = Request({3}, 4);
  urgent.set_priority(-1);
  const auto sooner = *group.engine->Generate(urgent);
  EXPECT_EQ(FakeGroup::Drain(*sooner).tokens_size(), 4);
  EXPECT_EQ(FakeGroup::Drain(*first).finish(), v1::FINISH_LENGTH);
  EXPECT_NE(later->Wait(milliseconds(0), &event), News::kFinished);
  EXPECT_EQ(FakeGroup::Drain(*later).finish(), v1::FINISH_LENGTH);
}

}  // namespace
}  // namespace octavo
