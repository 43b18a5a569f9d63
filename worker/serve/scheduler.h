#pragma once

// Decides what the next step of a group computes: which sequences, and which tokens of each. Pure:
// no threads, no clock of its own, no I/O; the same calls give the same decisions, on any machine.
//
// Sequences rank by (priority, arrival), lower first. A step has room for max_batched_tokens. First
// every sequence that decodes gets its one token, then prompts get chunks, by rank; a sequence that
// waits is let in when its turn comes while room is left, if fewer than max_sequences run and its
// tokens so far fit the free blocks. Nobody passes the first of the queue.
//
// A decoding sequence that needs a block when none is free preempts the last of those that run,
// itself perhaps: that one gives its blocks back, waits at its rank with the tokens it has, and
// computes them again. So the first of those that run always goes on, and all end. Sequences whose
// rows of logits are given out (logits_all) get all their blocks when they are let in and are never
// preempted: no position is reported twice. One of them at a time gives rows in a step, which
// bounds the rows of a step.
//
// Full blocks are kept when they are given back (block_pool.h): a sequence that is let in takes
// over those that hold what it begins with, up to the token before its last, and computes the rest.
// Not so sequences whose rows are given out, and those that opted out, which leave none either.

#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "core/base/clock.h"
#include "core/base/limits.h"
#include "octavo/v1/engine.pb.h"
#include "worker/serve/block_pool.h"

namespace octavo {

struct SchedulerLimits {
  uint32_t block_count = 0;
  uint32_t max_model_len = 0;
  // Requests, and tokens of all of them. A single one may have more tokens; preempted sequences may
  // come on top.
  uint32_t queue_max = kQueueRequestsMax;
  uint64_t queue_tokens_max = kQueueTokensMax;
  uint32_t max_batched_tokens = kBatchedTokens;
  uint32_t max_sequences = kSequencesMax;  // at most max_batched_tokens
};

struct NewSequence {
  uint64_t id = 0;              // never used before
  std::vector<int32_t> tokens;  // the prompt, or what is scored
  uint32_t max_new_tokens = 0;  // room is kept for so many more; 0 for scoring
  int32_t priority = 0;         // lower: earlier
  uint32_t chunk_tokens = 0;    // of its own in one step; 0: as many as there is room for
  bool logits_all = false;      // logits of every position of `tokens`, not of the last
  bool residuals = false;       // residual streams of the same
  bool no_prefix_cache = false;
  std::optional<Clock::Nanos> deadline = std::nullopt;
};

class Scheduler {
 public:
  enum class End { kCancelled, kDeadline };
  struct Ended {
    uint64_t id;
    End why;
  };
  struct Started {
    uint64_t id;
    size_t tokens;  // it has so far
    bool shares;    // kept blocks were looked for
    size_t reused;  // of its tokens, those that were in them
  };
  struct Decision {
    std::vector<Ended> ended;           // forgotten with this decision
    std::vector<v1::StepChunk> chunks;  // what to compute; empty: nothing to do
    std::vector<Started> started;       // left the queue with this decision
    std::vector<uint64_t> preempted;    // went back to it
  };

  // REQUIRES: 1 <= limits.max_sequences <= limits.max_batched_tokens.
  explicit Scheduler(const SchedulerLimits& limits);

  // Queues a sequence. Errors: kBadRequest (empty, longer than max_model_len), kOutOfMemory (never
  // fits the KV blocks), kQueueFull, kDeadline (already passed). max_new_tokens is cut to what
  // max_model_len leaves.
  absl::Status Add(NewSequence sequence, Clock::Nanos now);

  // Ends a sequence, queued or running, with the next decision. False when it is not known.
  bool Cancel(uint64_t id);

  // Expires, lets in, preempts, and chooses. The chunks of the last decision must have been
  // computed. A sequence whose last position was computed waits for Append or Remove and keeps its
  // place until then.
  Decision Next(Clock::Nanos now);

  // The token that follows everything `id`, which runs, has so far. False when no room is left for
  // it to be computed: then it is the last one.
  bool Append(uint64_t id, int32_t token);

  // While held, `id`, which runs, is computed no further and keeps its place and blocks: whoever
  // reads what it gives is not ready for more. Others go on. Ended all the same when it is
  // cancelled or expires.
  void Hold(uint64_t id, bool held);

  // `id`, which runs, is finished; its blocks are free.
  void Remove(uint64_t id);

  bool IsRunning(uint64_t id) const;

  size_t queue_size() const { return queue_.size(); }
  size_t running_size() const { return running_.size(); }
  // What the first of the queue waits for, as of the last decision: blocks, or, where this is
  // false, a place among those that run.
  bool waits_for_blocks() const { return waits_for_blocks_; }
  const BlockPool& pool() const { return pool_; }
  const SchedulerLimits& limits() const { return limits_; }

 private:
  struct Sequence {
    NewSequence facts;
    uint64_t arrival = 0;
    size_t rows = 0;      // of logits that are given out: of the first so many positions
    size_t room = 0;      // tokens it may come to in all
    size_t computed = 0;  // tokens in its blocks, or that decisions put there
    std::vector<uint32_t> blocks = {};
    size_t kept = 0;                                  // of its blocks
    BlockPool::Prefix prefix = BlockPool::kNoPrefix;  // they end
    bool cancelled = false;
    bool held = false;

    size_t rest() const { return facts.tokens.size() - computed; }
    bool shares() const { return rows == 0 && !facts.no_prefix_cache; }
    bool gives_rows() const { return computed < rows; }
    std::span<const int32_t> block_tokens(size_t block) const {
      return std::span(facts.tokens).subspan(block * kKvBlockTokens, kKvBlockTokens);
    }
    bool decodes() const { return computed > 0 && rest() == 1 && !gives_rows(); }
  };
  using Sequences = std::list<Sequence>;  // by rank

  static bool Before(const Sequence& a, const Sequence& b);
  // Why `sequence` must end now, if it must.
  static std::optional<End> Over(const Sequence& sequence, Clock::Nanos now);
  Sequence* FindRunning(uint64_t id);
  void Expire(Clock::Nanos now, Decision& decision);
  // Both take their tokens from `room`.
  void AddDecodes(uint32_t& room, Decision& decision);
  void AddPrefills(uint32_t& room, Decision& decision);
  // Gives `sequence` the blocks of all tokens it has, at the cost of later ones. False: it was
  // preempted itself.
  bool GrowOrPreempt(Sequence& sequence, Decision& decision);
  // Lets the first of the queue in, to run before `next`. False when it has to wait.
  bool LetIn(Sequences::iterator next, Decision& decision);
  // Has no blocks any more, and so nothing computed.
  void GiveBack(Sequence& sequence);
  // Keeps the full blocks that were computed.
  void KeepBlocks(Sequence& sequence);
  static v1::StepChunk TakeChunk(Sequence& sequence, size_t tokens);

  const SchedulerLimits limits_;
  BlockPool pool_;
  Sequences queue_;
  Sequences running_;
  uint64_t arrivals_ = 0;
  bool waits_for_blocks_ = false;
};

}  // namespace octavo
