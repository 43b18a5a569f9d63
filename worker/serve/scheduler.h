#pragma once

// Decides what the next step of a group computes. Pure: no threads, no clock of its own, no I/O;
// the same calls give the same decisions, on any machine.
//
// Today one sequence runs at a time and the others wait in a bounded queue, first come, first
// served. A prompt is computed in chunks, so that cancellation and deadlines act within one.

#include <cstdint>
#include <deque>
#include <optional>
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
  uint32_t queue_max = kQueueRequestsMax;
  uint32_t chunk_tokens = kPrefillChunkTokens;
};

struct NewSequence {
  uint64_t id = 0;              // never used before
  std::vector<int32_t> tokens;  // the prompt, or what is scored
  uint32_t max_new_tokens = 0;  // room is kept for so many more; 0 for scoring
  uint32_t chunk_tokens = 0;    // 0: the scheduler's limit
  bool logits_all = false;      // logits of every position, not of the last
  bool residuals = false;       // residual streams of every position
  std::optional<Clock::Nanos> deadline = std::nullopt;
};

class Scheduler {
 public:
  enum class End { kCancelled, kDeadline };
  struct Ended {
    uint64_t id;
    End why;
  };
  struct Decision {
    std::vector<Ended> ended;           // forgotten with this decision
    std::vector<v1::StepChunk> chunks;  // what to compute; empty: nothing to do
    std::vector<uint64_t> started;      // left the queue with this decision
  };

  explicit Scheduler(const SchedulerLimits& limits) : limits_(limits), pool_(limits.block_count) {}

  // Queues a sequence. Errors: kBadRequest (empty, longer than max_model_len), kOutOfMemory (never
  // fits the KV blocks), kQueueFull, kDeadline (already passed). max_new_tokens is cut to what
  // max_model_len leaves.
  absl::Status Add(NewSequence sequence, Clock::Nanos now);

  // Ends a sequence, queued or running, with the next decision. False when it is not known.
  bool Cancel(uint64_t id);

  // Expires, admits, and chooses. The chunks of the last decision must have been computed.
  Decision Next(Clock::Nanos now);

  // The token that follows everything `id` has so far. False when no room is left for it to be
  // computed: then it is the last one.
  bool Append(uint64_t id, int32_t token);

  // While held, `id` is computed no further, and nothing takes its place: whoever reads what it
  // gives is not ready for more. Ended all the same when it is cancelled or expires.
  void Hold(uint64_t id, bool held);

  // `id` is finished; its blocks are free.
  void Remove(uint64_t id);

  // True while `id` is the running sequence.
  bool IsRunning(uint64_t id) const;

  size_t queue_size() const { return queue_.size(); }
  size_t running_size() const { return running_.has_value() ? 1 : 0; }
  const BlockPool& pool() const { return pool_; }
  const SchedulerLimits& limits() const { return limits_; }

 private:
  struct Sequence {
    NewSequence facts;
    size_t computed = 0;  // tokens covered by decisions
    size_t room = 0;      // tokens it may come to in all
    std::vector<uint32_t> blocks = {};
    bool cancelled = false;
    bool held = false;
  };

  // Why `sequence` must end now, if it must.
  static std::optional<End> Over(const Sequence& sequence, Clock::Nanos now);
  v1::StepChunk NextChunk(Sequence& sequence);

  const SchedulerLimits limits_;
  BlockPool pool_;
  std::deque<Sequence> queue_;
  std::optional<Sequence> running_;
};

}  // namespace octavo
