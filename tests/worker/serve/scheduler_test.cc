#include "worker/serve/scheduler.h"

#include <map>
#include <random>
#include <set>

#include "core/base/error.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

constexpr SchedulerLimits kLimits{
    .block_count = 32, .max_model_len = 1000, .queue_max = 4, .chunk_tokens = 256};

NewSequence Of(uint64_t id, size_t length, uint32_t more = 10) {
  NewSequence sequence;
  sequence.id = id;
  for (size_t i = 0; i < length; ++i) sequence.tokens.push_back(static_cast<int32_t>(i));
  sequence.max_new_tokens = more;
  return sequence;
}

TEST(Scheduler, CutsAPromptIntoChunksThatTileIt) {
  Scheduler scheduler(kLimits);
  ASSERT_TRUE(scheduler.Add(Of(1, 600), {}).ok());
  std::vector<std::pair<uint32_t, int>> chunks;
  for (int i = 0; i < 3; ++i) {
    const auto decision = scheduler.Next({});
    ASSERT_EQ(decision.chunks.size(), 1u);
    const v1::StepChunk& chunk = decision.chunks[0];
    chunks.emplace_back(chunk.start(), chunk.tokens_size());
    EXPECT_EQ(chunk.logits_last(), i == 2);
    EXPECT_EQ(chunk.tokens(0), static_cast<int32_t>(chunk.start()));
    EXPECT_EQ(static_cast<uint32_t>(chunk.blocks_size()),
              BlockPool::BlocksFor(chunk.start() + static_cast<size_t>(chunk.tokens_size())));
  }
  EXPECT_EQ(chunks, (std::vector<std::pair<uint32_t, int>>{{0, 256}, {256, 256}, {512, 88}}));
  EXPECT_TRUE(scheduler.Next({}).chunks.empty());
  EXPECT_TRUE(scheduler.Append(1, 77));
  const auto decision = scheduler.Next({});
  ASSERT_EQ(decision.chunks.size(), 1u);
  EXPECT_EQ(decision.chunks[0].start(), 600u);
  EXPECT_EQ(decision.chunks[0].tokens(0), 77);
}

TEST(Scheduler, WhatIsHeldWaitsAndKeepsItsPlace) {
  Scheduler scheduler(kLimits);
  ASSERT_TRUE(scheduler.Add(Of(1, 600), {}).ok());
  ASSERT_TRUE(scheduler.Add(Of(2, 5), {}).ok());
  ASSERT_EQ(scheduler.Next({}).chunks.size(), 1u);
  scheduler.Hold(1, true);
  scheduler.Hold(2, true);  // is not running: nothing to hold
  EXPECT_TRUE(scheduler.Next({}).chunks.empty());
  EXPECT_TRUE(scheduler.IsRunning(1));
  scheduler.Hold(1, false);
  const auto next = scheduler.Next({});
  ASSERT_EQ(next.chunks.size(), 1u);
  EXPECT_EQ(next.chunks[0].start(), 256u);
  scheduler.Hold(1, true);
  EXPECT_TRUE(scheduler.Cancel(1));
  const auto after = scheduler.Next({});
  ASSERT_EQ(after.ended.size(), 1u);
  ASSERT_EQ(after.chunks.size(), 1u);
  EXPECT_EQ(after.chunks[0].sequence(), 2u);
}

TEST(Scheduler, KeepsRoomForTheAnswerAndNoMore) {
  Scheduler scheduler(kLimits);
  ASSERT_TRUE(scheduler.Add(Of(1, 998, 50), {}).ok());  // the model takes 1,000
  while (!scheduler.Next({}).chunks.empty()) {
  }
  EXPECT_TRUE(scheduler.Append(1, 5));
  EXPECT_EQ(scheduler.Next({}).chunks.size(), 1u);
  EXPECT_FALSE(scheduler.Append(1, 5));
}

TEST(Scheduler, RejectsByReason) {
  Scheduler scheduler(kLimits);
  EXPECT_EQ(ReasonOf(scheduler.Add(Of(1, 0), {})), Reason::kBadRequest);
  EXPECT_EQ(ReasonOf(scheduler.Add(Of(1, 1000), {})), Reason::kBadRequest);
  EXPECT_TRUE(scheduler.Add(Of(1, 1000, 0), {}).ok());
  NewSequence late = Of(2, 5);
  late.deadline = milliseconds(10);
  EXPECT_EQ(ReasonOf(scheduler.Add(late, milliseconds(10))), Reason::kDeadline);
  for (uint64_t id = 3; id < 6; ++id) EXPECT_TRUE(scheduler.Add(Of(id, 5), {}).ok());
  EXPECT_EQ(ReasonOf(scheduler.Add(Of(9, 5), {})), Reason::kQueueFull);
  Scheduler small({.block_count = 2, .max_model_len = 1000});
  EXPECT_EQ(ReasonOf(small.Add(Of(1, 60, 10), {})), Reason::kOutOfMemory);
}

TEST(Scheduler, DeadlinesActInTheQueueAndWhileRunning) {
  Scheduler scheduler(kLimits);
  NewSequence first = Of(1, 600);
  first.deadline = milliseconds(50);
  NewSequence second = Of(2, 5);
  second.deadline = milliseconds(20);
  ASSERT_TRUE(scheduler.Add(first, {}).ok());
  ASSERT_TRUE(scheduler.Add(second, {}).ok());
  EXPECT_EQ(scheduler.Next(milliseconds(1)).chunks[0].sequence(), 1u);
  auto decision = scheduler.Next(milliseconds(20));
  ASSERT_EQ(decision.ended.size(), 1u);
  EXPECT_EQ(decision.ended[0].id, 2u);
  EXPECT_EQ(decision.ended[0].why, Scheduler::End::kDeadline);
  decision = scheduler.Next(milliseconds(50));
  ASSERT_EQ(decision.ended.size(), 1u);
  EXPECT_EQ(decision.ended[0].id, 1u);
  EXPECT_TRUE(decision.chunks.empty());
  EXPECT_EQ(scheduler.pool().free_count(), 32u);
}

TEST(Scheduler, ACancelledSequenceEndsBeforeTheNextChunk) {
  Scheduler scheduler(kLimits);
  ASSERT_TRUE(scheduler.Add(Of(1, 600), {}).ok());
  ASSERT_TRUE(scheduler.Add(Of(2, 5), {}).ok());
  (void)scheduler.Next({});
  EXPECT_TRUE(scheduler.Cancel(1));
  EXPECT_FALSE(scheduler.Cancel(7));
  const auto decision = scheduler.Next({});
  ASSERT_EQ(decision.ended.size(), 1u);
  EXPECT_EQ(decision.ended[0].why, Scheduler::End::kCancelled);
  ASSERT_EQ(decision.chunks.size(), 1u);
  EXPECT_EQ(decision.chunks[0].sequence(), 2u);
}

// Random histories: every sequence ends exactly once, first come first served, its chunks tile its
// tokens, and no block is ever lost or held twice.
TEST(Scheduler, RandomHistoriesKeepItsPromises) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    Scheduler scheduler(kLimits);
    Clock::Nanos now{0};
    uint64_t next_id = 1;
    uint64_t last_started = 0;
    std::map<uint64_t, size_t> computed;
    std::set<uint64_t> alive;
    std::optional<uint64_t> at_end;  // the running sequence waits for a token
    for (int i = 0; i < 400; ++i) {
      now += milliseconds(random() % 5);
      const uint32_t action = random() % 10;
      if (action < 2) {
        NewSequence sequence = Of(next_id, 1 + random() % 700, 1 + random() % 5);
        if (random() % 4 == 0) sequence.deadline = now + milliseconds(random() % 40);
        if (random() % 3 == 0) sequence.chunk_tokens = 1 + random() % 64;
        if (scheduler.Add(sequence, now).ok()) alive.insert(next_id);
        ++next_id;
      } else if (action == 2 && !alive.empty()) {
        EXPECT_TRUE(scheduler.Cancel(*alive.begin()));
      } else {
        if (at_end.has_value()) {
          if (!scheduler.Append(*at_end, 1) || random() % 8 == 0) {
            scheduler.Remove(*at_end);
            EXPECT_EQ(alive.erase(*at_end), 1u);
          }
          at_end.reset();
        }
        const auto decision = scheduler.Next(now);
        for (const auto& ended : decision.ended) EXPECT_EQ(alive.erase(ended.id), 1u);
        for (const uint64_t id : decision.started) {
          EXPECT_GT(id, last_started);
          last_started = id;
        }
        for (const v1::StepChunk& chunk : decision.chunks) {
          EXPECT_TRUE(alive.contains(chunk.sequence()));
          EXPECT_EQ(chunk.start(), computed[chunk.sequence()]);
          computed[chunk.sequence()] += static_cast<size_t>(chunk.tokens_size());
          EXPECT_LE(chunk.tokens_size(), 256);
          const std::set<uint32_t> blocks(chunk.blocks().begin(), chunk.blocks().end());
          EXPECT_EQ(static_cast<int>(blocks.size()), chunk.blocks_size());
          EXPECT_EQ(blocks.size() + scheduler.pool().free_count(), 32u);
          if (chunk.logits_last()) at_end = chunk.sequence();
        }
        if (scheduler.running_size() == 0) {
          EXPECT_EQ(scheduler.pool().free_count(), 32u);
        }
      }
    }
  }
}

}  // namespace
}  // namespace octavo
