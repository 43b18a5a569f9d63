// Random loads on small pools: what the scheduler promises, step by step, against a cache that
// knows what was written where.

#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <set>

#include "core/base/error.h"
#include "gtest/gtest.h"
#include "worker/serve/scheduler.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

// The token at a position of a sequence: what was sampled there once is what comes back.
int32_t TokenAt(uint64_t id, size_t position) {
  return static_cast<int32_t>((id * 7919 + position * 104729) % 50000);
}

// What a position's keys and values depend on: all tokens up to it.
uint64_t Mix(uint64_t before, int32_t token) {
  return (before ^ static_cast<uint64_t>(token)) * 0x9e3779b97f4a7c15 + 0x7f4a7c15;
}

struct Expected {
  NewSequence facts;  // as it was added
  std::vector<int32_t> tokens = {};
  std::vector<uint64_t> contents = {};  // of its positions
  void Add(int32_t token) {
    contents.push_back(Mix(contents.empty() ? 0 : contents.back(), token));
    tokens.push_back(token);
  }
  size_t wanted = 0;  // tokens to emit
  size_t computed = 0;
  std::vector<size_t> reported = {};  // positions whose rows were given out
  bool running = false;
  bool held = false;
  bool fresh = false;  // let in with this decision
  size_t rows() const { return facts.logits_all ? facts.tokens.size() : 0; }
  size_t length() const { return tokens.size(); }
  bool decodes() const {
    return !fresh && computed > 0 && computed + 1 == length() && computed >= rows();
  }
};

class Simulation {
 public:
  // Where nothing is shared every block is accounted for in every step.
  Simulation(uint32_t seed, bool shares)
      : shares_(shares),
        random_(seed),
        limits_(Draw(random_)),
        scheduler_(limits_),
        cache_(limits_.block_count) {}

  void Run() {
    for (int i = 0; i < 150; ++i) {
      now_ += milliseconds(random_() % 3);
      for (uint32_t n = random_() % 3; n > 0; --n) Arrive();
      if (random_() % 16 == 0 && !alive_.empty()) {
        EXPECT_TRUE(scheduler_.Cancel(alive_.begin()->first));
      }
      HoldSome();
      Step();
    }
    // No more comes: all end.
    for (auto& [id, sequence] : alive_) Hold(id, sequence, false);
    for (int i = 0; i < 20000 && !alive_.empty(); ++i) Step();
    EXPECT_TRUE(alive_.empty());
    EXPECT_EQ(scheduler_.pool().free_count(), limits_.block_count);
    EXPECT_EQ(scheduler_.queue_size() + scheduler_.running_size(), 0u);
  }

  size_t preemptions = 0;
  size_t reused = 0;  // tokens
  size_t finished = 0;
  std::string history;  // of decisions

 private:
  static SchedulerLimits Draw(std::mt19937& random) {
    SchedulerLimits limits;
    limits.block_count = 6 + random() % 30;
    limits.max_model_len = 64 + random() % 300;
    limits.queue_max = 5 + random() % 20;
    limits.max_batched_tokens = 1 + random() % 80;
    limits.max_sequences = 1 + random() % std::min(9u, limits.max_batched_tokens);
    return limits;
  }

  void Arrive() {
    Expected sequence;
    NewSequence& facts = sequence.facts;
    facts.id = next_id_++;
    const size_t length = 1 + random_() % 120;
    const uint64_t family = 1'000'000 + random_() % 2;
    const size_t common = shares_ ? random_() % 100 : 0;
    for (size_t i = 0; i < length; ++i) sequence.Add(TokenAt(i < common ? family : facts.id, i));
    facts.tokens = sequence.tokens;
    facts.no_prefix_cache = !shares_ || random_() % 8 == 0;
    facts.priority = random_() % 4 == 0 ? static_cast<int32_t>(random_() % 5) - 2 : 0;
    if (random_() % 12 == 0) facts.deadline = now_ + milliseconds(random_() % 60);
    if (random_() % 3 == 0) facts.chunk_tokens = 1 + random_() % 40;
    facts.logits_all = random_() % 6 == 0;
    facts.max_new_tokens = facts.logits_all && random_() % 2 == 0 ? 0 : 1 + random_() % 100;
    const absl::Status added = scheduler_.Add(facts, now_);
    if (!added.ok()) return;
    sequence.wanted =
        std::min<size_t>(facts.max_new_tokens, limits_.max_model_len - facts.tokens.size());
    alive_[facts.id] = std::move(sequence);
  }

  void Hold(uint64_t id, Expected& sequence, bool held) {
    if (!sequence.running) return;
    sequence.held = held;
    scheduler_.Hold(id, held);
  }

  void HoldSome() {
    for (auto& [id, sequence] : alive_) {
      if (sequence.facts.logits_all) Hold(id, sequence, random_() % 2 == 0);
    }
  }

  void Step() {
    Scheduler::Decision decision = scheduler_.Next(now_);
    for (const Scheduler::Ended& ended : decision.ended) EXPECT_EQ(alive_.erase(ended.id), 1u);
    CheckPreempted(decision);
    CheckStarted(decision);
    size_t tokens = 0;
    size_t scores = 0;
    std::set<uint64_t> computed;
    for (const v1::StepChunk& chunk : decision.chunks) {
      tokens += static_cast<size_t>(chunk.tokens_size());
      scores += chunk.logits_all() ? 1 : 0;
      EXPECT_TRUE(computed.insert(chunk.sequence()).second);
      history += chunk.SerializeAsString();
    }
    EXPECT_LE(tokens, limits_.max_batched_tokens);
    EXPECT_LE(scores, 1u);
    EXPECT_LE(scheduler_.running_size(), limits_.max_sequences);
    EXPECT_LE(scheduler_.queue_size(), limits_.queue_max + limits_.max_sequences);
    CheckOrder(decision);
    CheckBlocks();
    for (auto& [id, sequence] : alive_) sequence.fresh = false;
    for (const v1::StepChunk& chunk : decision.chunks) Compute(chunk);
  }

  bool Before(const Expected& a, const Expected& b) const {
    if (a.facts.priority != b.facts.priority) return a.facts.priority < b.facts.priority;
    return a.facts.id < b.facts.id;
  }

  // The victims are the last of those that generate.
  void CheckPreempted(const Scheduler::Decision& decision) {
    preemptions += decision.preempted.size();
    for (const uint64_t id : decision.preempted) {
      Expected& victim = alive_.at(id);
      EXPECT_TRUE(victim.running);
      EXPECT_FALSE(victim.facts.logits_all);
      victim.running = false;
      victim.computed = 0;
    }
    for (const uint64_t id : decision.preempted) {
      for (const auto& [other, sequence] : alive_) {
        if (!sequence.running || sequence.facts.logits_all) continue;
        EXPECT_TRUE(Before(sequence, alive_.at(id)));
      }
    }
  }

  // Nobody passes one that waits.
  void CheckStarted(const Scheduler::Decision& decision) {
    EXPECT_TRUE(decision.started.empty() || decision.preempted.empty());
    for (const Scheduler::Started& started : decision.started) {
      Expected& sequence = alive_.at(started.id);
      EXPECT_EQ(started.tokens, sequence.length());
      EXPECT_LT(started.reused, started.tokens);
      EXPECT_EQ(started.reused % kKvBlockTokens, 0u);
      if (sequence.facts.no_prefix_cache || sequence.facts.logits_all) {
        EXPECT_EQ(started.reused, 0u);
      }
      sequence.running = true;
      sequence.fresh = true;
      sequence.computed = started.reused;
      reused += started.reused;
    }
    size_t running = 0;
    for (const auto& [id, sequence] : alive_) {
      EXPECT_EQ(scheduler_.IsRunning(id), sequence.running);
      running += sequence.running ? 1 : 0;
      if (sequence.running) continue;
      for (const Scheduler::Started& started : decision.started) {
        EXPECT_TRUE(Before(alive_.at(started.id), sequence));
      }
    }
    EXPECT_EQ(scheduler_.running_size(), running);
    EXPECT_EQ(scheduler_.queue_size(), alive_.size() - running);
  }

  // Decodes first and all of them; then prompts by rank, each as far as it may.
  void CheckOrder(const Scheduler::Decision& decision) {
    std::vector<uint64_t> decodes, prompts;
    for (const v1::StepChunk& chunk : decision.chunks) {
      const bool decode = alive_.at(chunk.sequence()).decodes();
      EXPECT_TRUE(!decode || prompts.empty());
      (decode ? decodes : prompts).push_back(chunk.sequence());
    }
    const auto by_rank = [&](uint64_t a, uint64_t b) { return Before(alive_.at(a), alive_.at(b)); };
    EXPECT_TRUE(std::ranges::is_sorted(decodes, by_rank));
    EXPECT_TRUE(std::ranges::is_sorted(prompts, by_rank));
    bool could = false;
    for (const auto& [id, sequence] : alive_) {
      if (!sequence.running || sequence.held) continue;
      could = true;
      if (sequence.decodes()) {
        EXPECT_TRUE(std::ranges::find(decodes, id) != decodes.end());
      }
    }
    EXPECT_TRUE(!could || !decision.chunks.empty());
  }

  void CheckBlocks() {
    uint32_t used = 0;
    for (const auto& [id, sequence] : alive_) {
      if (!sequence.running) continue;
      const size_t room = sequence.facts.tokens.size() + sequence.wanted;
      used += BlockPool::BlocksFor(sequence.rows() > 0 ? room : sequence.length());
    }
    const uint32_t free = scheduler_.pool().free_count();
    EXPECT_GE(used + free, limits_.block_count);
    if (!shares_) {
      EXPECT_EQ(used + free, limits_.block_count);
    }
  }

  void Compute(const v1::StepChunk& chunk) {
    const uint64_t id = chunk.sequence();
    Expected& sequence = alive_.at(id);
    EXPECT_FALSE(sequence.held);
    ASSERT_EQ(chunk.start(), sequence.computed);
    const size_t end = chunk.start() + static_cast<size_t>(chunk.tokens_size());
    ASSERT_LE(end, sequence.length());
    ASSERT_EQ(static_cast<uint32_t>(chunk.blocks_size()), BlockPool::BlocksFor(end));
    for (size_t at = chunk.start(); at < end; ++at) {
      EXPECT_EQ(chunk.tokens(static_cast<int>(at - chunk.start())), sequence.tokens[at]);
      Slot(chunk, at) = sequence.contents[at];
      if (chunk.logits_all()) sequence.reported.push_back(at);
    }
    // Everything it attends to is there, and what it would have computed.
    for (size_t at = 0; at < end; ++at) EXPECT_EQ(Slot(chunk, at), sequence.contents[at]);
    sequence.computed = end;
    EXPECT_EQ(chunk.logits_all(), chunk.start() < sequence.rows());
    EXPECT_EQ(chunk.logits_last(), !chunk.logits_all() && end == sequence.length());
    if (end != sequence.length()) return;
    EXPECT_EQ(sequence.reported.size(), sequence.rows());
    if (sequence.wanted == 0) return End(id);
    Sample(sequence);
  }

  void Sample(Expected& sequence) {
    const uint64_t id = sequence.facts.id;
    const int32_t token = TokenAt(id, sequence.length());
    const bool room = scheduler_.Append(id, token);
    sequence.Add(token);
    const size_t emitted = sequence.length() - sequence.facts.tokens.size();
    EXPECT_EQ(room, emitted < sequence.wanted);
    if (!room) End(id);
  }

  void End(uint64_t id) {
    scheduler_.Remove(id);
    alive_.erase(id);
    ++finished;
  }

  uint64_t& Slot(const v1::StepChunk& chunk, size_t position) {
    return cache_[chunk.blocks(static_cast<int>(position / kKvBlockTokens))]
                 [position % kKvBlockTokens];
  }

  const bool shares_;
  std::mt19937 random_;
  const SchedulerLimits limits_;
  Scheduler scheduler_;
  std::vector<std::array<uint64_t, kKvBlockTokens>> cache_;
  std::map<uint64_t, Expected> alive_;
  Clock::Nanos now_{0};
  uint64_t next_id_ = 1;
};

TEST(SchedulerSimulation, KeepsItsPromisesUnderAnyLoad) {
  size_t preemptions = 0;
  size_t finished = 0;
  size_t reused = 0;
  for (uint32_t seed = 0; seed < 300 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(seed, seed % 2 == 0);
    simulation.Run();
    preemptions += simulation.preemptions;
    finished += simulation.finished;
    reused += simulation.reused;
  }
  EXPECT_GT(preemptions, 1000u);
  EXPECT_GT(finished, 5000u);
  EXPECT_GT(reused, 20000u);
}

TEST(SchedulerSimulation, TheSameCallsGiveTheSameDecisions) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    Simulation first(seed, true);
    Simulation second(seed, true);
    first.Run();
    second.Run();
    EXPECT_FALSE(first.history.empty());
    EXPECT_EQ(first.history, second.history);
  }
}

}  // namespace
}  // namespace octavo
