#include "worker/serve/scheduler.h"

#include "core/base/error.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

constexpr SchedulerLimits kLimits{.block_count = 32,
                                  .max_model_len = 1000,
                                  .queue_max = 4,
                                  .max_batched_tokens = 256,
                                  .max_sequences = 3};

// The tokens of two sequences differ.
NewSequence Of(uint64_t id, size_t length, uint32_t more = 10) {
  NewSequence sequence;
  sequence.id = id;
  for (size_t i = 0; i < length; ++i)
    sequence.tokens.push_back(static_cast<int32_t>(id * 1000 + i));
  sequence.max_new_tokens = more;
  return sequence;
}

// Chunks as (sequence, start, tokens).
using Chunks = std::vector<std::tuple<uint64_t, uint32_t, int>>;
Chunks ChunksOf(const Scheduler::Decision& decision) {
  Chunks chunks;
  for (const v1::StepChunk& chunk : decision.chunks) {
    chunks.emplace_back(chunk.sequence(), chunk.start(), chunk.tokens_size());
  }
  return chunks;
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
    EXPECT_EQ(chunk.tokens(0), static_cast<int32_t>(1000 + chunk.start()));
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

TEST(Scheduler, EverySequenceThatDecodesComesBeforePrompts) {
  Scheduler scheduler(kLimits);
  ASSERT_TRUE(scheduler.Add(Of(1, 10), {}).ok());
  ASSERT_TRUE(scheduler.Add(Of(2, 300), {}).ok());
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{1, 0, 10}, {2, 0, 246}}));
  ASSERT_TRUE(scheduler.Add(Of(3, 300), {}).ok());
  ASSERT_TRUE(scheduler.Add(Of(4, 5), {}).ok());
  EXPECT_TRUE(scheduler.Append(1, 7));
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{1, 10, 1}, {2, 246, 54}, {3, 0, 201}}));
  EXPECT_TRUE(scheduler.Append(1, 7));
  EXPECT_TRUE(scheduler.Append(2, 7));
  // Three run: the fourth waits.
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{1, 11, 1}, {2, 300, 1}, {3, 201, 99}}));
  EXPECT_EQ(scheduler.queue_size(), 1u);
  scheduler.Remove(1);
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{4, 0, 5}}));
}

TEST(Scheduler, PromptsGoByPriorityThenArrival) {
  Scheduler scheduler(kLimits);
  NewSequence urgent = Of(3, 100);
  urgent.priority = -1;
  ASSERT_TRUE(scheduler.Add(Of(1, 200), {}).ok());
  ASSERT_TRUE(scheduler.Add(Of(2, 200), {}).ok());
  ASSERT_TRUE(scheduler.Add(urgent, {}).ok());
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{3, 0, 100}, {1, 0, 156}}));
  urgent.id = 4;
  urgent.tokens[0] = 7;
  ASSERT_TRUE(scheduler.Add(urgent, {}).ok());
  scheduler.Remove(3);
  // It also passes a prompt that was begun.
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{4, 0, 100}, {1, 156, 44}, {2, 0, 112}}));
}

TEST(Scheduler, WhoeverNeedsABlockTakesTheLastOnes) {
  SchedulerLimits limits = kLimits;
  limits.block_count = 8;
  Scheduler scheduler(limits);
  for (const uint64_t id : {1, 2, 3}) ASSERT_TRUE(scheduler.Add(Of(id, 62, 100), {}).ok());
  const auto step = [&](std::initializer_list<uint64_t> ids) {
    for (const uint64_t id : ids) EXPECT_TRUE(scheduler.Append(id, 100));
    return scheduler.Next({});
  };
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{1, 0, 62}, {2, 0, 62}, {3, 0, 62}}));
  EXPECT_EQ(ChunksOf(step({1, 2, 3})), (Chunks{{1, 62, 1}, {2, 62, 1}, {3, 62, 1}}));
  EXPECT_EQ(ChunksOf(step({1, 2, 3})), (Chunks{{1, 63, 1}, {2, 63, 1}, {3, 63, 1}}));
  EXPECT_EQ(scheduler.pool().free_count(), 2u);
  // The third needs one more than there is, and is the last itself.
  const auto own = step({1, 2, 3});
  EXPECT_EQ(own.preempted, (std::vector<uint64_t>{3}));
  EXPECT_EQ(ChunksOf(own), (Chunks{{1, 64, 1}, {2, 64, 1}}));
  EXPECT_EQ(scheduler.queue_size(), 1u);
  EXPECT_EQ(scheduler.pool().free_count(), 2u);
  for (int i = 0; i < 31; ++i) EXPECT_EQ(step({1, 2}).chunks.size(), 2u);
  EXPECT_EQ(step({1, 2}).preempted.size(), 0u);
  scheduler.Remove(2);
  // With every token it had, and none twice.
  const auto again = step({1});
  EXPECT_EQ(ChunksOf(again), (Chunks{{1, 97, 1}, {3, 0, 65}}));
  EXPECT_EQ(again.chunks[1].tokens(61), 3061);
  EXPECT_EQ(again.chunks[1].tokens(64), 100);
  EXPECT_TRUE(again.chunks[1].logits_last());
}

TEST(Scheduler, RowsThatAreGivenOutAreNeverComputedTwice) {
  SchedulerLimits limits = kLimits;
  limits.block_count = 5;
  limits.max_batched_tokens = 40;
  Scheduler scheduler(limits);
  NewSequence scored = Of(2, 70, 0);
  scored.logits_all = true;
  ASSERT_TRUE(scheduler.Add(Of(1, 32, 60), {}).ok());
  ASSERT_TRUE(scheduler.Add(scored, {}).ok());
  ASSERT_TRUE(scheduler.Add(Of(3, 32, 60), {}).ok());
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{1, 0, 32}, {2, 0, 8}}));
  // All three blocks of its own, though one is in use.
  EXPECT_EQ(scheduler.pool().free_count(), 1u);
  EXPECT_TRUE(scheduler.Append(1, 0));
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{1, 32, 1}, {2, 8, 39}}));
  for (int i = 0; i < 31; ++i) {
    scheduler.Hold(2, true);
    EXPECT_TRUE(scheduler.Append(1, 0));
    EXPECT_EQ(scheduler.Next({}).chunks.size(), 1u);
  }
  // The first needs a third block. The only one that could give one is itself.
  EXPECT_TRUE(scheduler.Append(1, 0));
  const auto none = scheduler.Next({});
  EXPECT_EQ(none.preempted, (std::vector<uint64_t>{1}));
  EXPECT_TRUE(none.chunks.empty());
  scheduler.Hold(2, false);
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{2, 47, 23}}));
  scheduler.Remove(2);
  // Nobody took its blocks meanwhile: they are as they were.
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{1, 64, 1}, {3, 0, 32}}));
}

TEST(Scheduler, OneSequenceThatGivesOutRowsTakesPartInAStep) {
  Scheduler scheduler(kLimits);
  for (const uint64_t id : {1, 2}) {
    NewSequence scored = Of(id, 100, 0);
    scored.logits_all = true;
    scored.chunk_tokens = 60;
    ASSERT_TRUE(scheduler.Add(scored, {}).ok());
  }
  ASSERT_TRUE(scheduler.Add(Of(3, 10), {}).ok());
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{1, 0, 60}, {3, 0, 10}}));
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{1, 60, 40}}));
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{2, 0, 60}}));
}

TEST(Scheduler, WhatIsHeldKeepsItsPlaceAndOthersGoOn) {
  Scheduler scheduler(kLimits);
  ASSERT_TRUE(scheduler.Add(Of(1, 600), {}).ok());
  ASSERT_TRUE(scheduler.Add(Of(2, 5), {}).ok());
  scheduler.Hold(2, true);  // is not running: nothing to hold
  ASSERT_EQ(scheduler.Next({}).chunks.size(), 1u);
  scheduler.Hold(1, true);
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{2, 0, 5}}));
  EXPECT_TRUE(scheduler.IsRunning(1));
  EXPECT_TRUE(scheduler.Next({}).chunks.empty());
  scheduler.Hold(1, false);
  EXPECT_EQ(ChunksOf(scheduler.Next({})), (Chunks{{1, 256, 256}}));
  scheduler.Hold(1, true);
  EXPECT_TRUE(scheduler.Cancel(1));
  const auto after = scheduler.Next({});
  ASSERT_EQ(after.ended.size(), 1u);
  EXPECT_EQ(after.ended[0].why, Scheduler::End::kCancelled);
  EXPECT_EQ(scheduler.pool().free_count(), 31u);
}

TEST(Scheduler, WhatOthersComputedIsTakenOver) {
  Scheduler scheduler(kLimits);
  uint64_t id = 0;
  // What is computed of a sequence that comes alone.
  const auto first_chunk = [&](NewSequence sequence) {
    sequence.id = ++id;
    EXPECT_TRUE(scheduler.Add(std::move(sequence), {}).ok());
    const auto decision = scheduler.Next({});
    EXPECT_EQ(decision.started.size(), 1u);
    EXPECT_EQ(decision.chunks.size(), 1u);
    EXPECT_EQ(decision.started[0].reused, decision.chunks[0].start());
    scheduler.Remove(id);
    return decision.chunks[0];
  };
  const v1::StepChunk first = first_chunk(Of(1, 96));
  EXPECT_EQ(first.start(), 0u);
  // Never the last token: its logits are needed.
  EXPECT_EQ(first_chunk(Of(1, 96)).start(), 64u);
  const v1::StepChunk longer = first_chunk(Of(1, 100));
  EXPECT_EQ(longer.start(), 96u);
  EXPECT_TRUE(std::equal(first.blocks().begin(), first.blocks().end(), longer.blocks().begin()));
  NewSequence other = Of(1, 96);
  other.tokens[40] = 7;
  EXPECT_EQ(first_chunk(other).start(), 32u);
  NewSequence apart = Of(1, 96);
  apart.no_prefix_cache = true;
  EXPECT_EQ(first_chunk(apart).start(), 0u);
  apart = Of(2, 96);
  apart.no_prefix_cache = true;
  EXPECT_EQ(first_chunk(apart).start(), 0u);
  // It left nothing either.
  EXPECT_EQ(first_chunk(Of(2, 96)).start(), 0u);
  NewSequence scored = Of(1, 96, 0);
  scored.logits_all = true;
  EXPECT_EQ(first_chunk(scored).start(), 0u);
  EXPECT_EQ(scheduler.pool().free_count(), 32u);
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
  SchedulerLimits limits = kLimits;
  limits.queue_tokens_max = 100;
  Scheduler narrow(limits);
  EXPECT_TRUE(narrow.Add(Of(1, 60), {}).ok());
  EXPECT_EQ(ReasonOf(narrow.Add(Of(2, 41), {})), Reason::kQueueFull);
  EXPECT_TRUE(narrow.Add(Of(2, 40), {}).ok());
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

}  // namespace
}  // namespace octavo
