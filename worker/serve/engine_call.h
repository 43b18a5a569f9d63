#pragma once

// One request inside the engine, as its caller sees it: a mailbox that the engine fills without
// ever waiting for the caller, and that the caller empties at its own pace. Everything produced
// between two looks comes out as one event, so a slow reader costs constant memory. Logits are too
// many for that: the engine goes on when the mailbox is empty.

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "core/base/mutex.h"
#include "octavo/v1/engine.pb.h"

namespace octavo {

class EngineCall {
 public:
  // What Wait found.
  enum class News { kNothing, kEvent, kFinished, kFailed };

  // Logits of consecutive positions, [n, vocabulary]; where asked for, the residual stream after
  // every layer, BF16 [n, layers, hidden].
  struct Rows {
    uint32_t start = 0;
    std::vector<float> logits;
    std::vector<uint16_t> residuals = {};
  };

  // `mark` lives as long as the call: that is how the engine knows how many there are.
  EngineCall(uint64_t id, std::shared_ptr<const void> mark) : id_(id), mark_(std::move(mark)) {}
  uint64_t id() const { return id_; }

  // Waits for at most `timeout`. kEvent: tokens (or a prompt's) came, moved to *event, or rows of
  // logits, which are for Engine::TakeRows. kFinished: *event is the last one (its `finish` is
  // set), or the score is complete. kFailed: see failure().
  News Wait(std::chrono::milliseconds timeout, v1::EngineEvent* event);

  absl::Status failure() const;
  // Of a score call that kFinished.
  v1::EngineScoreResponse TakeScore();

  // Seconds that it was queued, that its first token took from there, and that the others took from
  // the first; what has not come to its end is absent.
  struct Times {
    std::optional<double> queued, prefill, decode;
  };
  Times times() const;

  // The engine's side.
  // With the last token goes the end, as Finish says it: who has all tokens knows that it has.
  void AddToken(v1::EngineToken token, v1::FinishReason end = v1::FINISH_UNSPECIFIED,
                int32_t stop_id = -1);
  // Left the queue, `cached` tokens of it in the prefix cache; once, before the first token.
  void Begin(uint32_t cached);
  void AddPrompt(const v1::EngineEvent& part);  // its `prompt` is set
  void AddRows(Rows rows);                      // REQUIRES: !HasRows()
  bool HasRows() const;
  std::optional<Rows> TakeRows();
  void AddScores(const v1::EngineScoreResponse& part);
  void Finish(v1::FinishReason reason, int32_t stop_id);
  void Fail(const absl::Status& status);  // does nothing when finished

 private:
  using Steady = std::chrono::steady_clock;

  const uint64_t id_;
  const std::shared_ptr<const void> mark_;
  const Steady::time_point made_ = Steady::now();
  mutable Mutex mutex_;
  CondVar changed_;
  // REQUIRES mutex_ held.
  bool HasTokens() const { return event_.tokens_size() + event_.prompt_size() > 0; }

  v1::EngineEvent event_ OCTAVO_GUARDED_BY(mutex_);
  std::optional<Rows> rows_ OCTAVO_GUARDED_BY(mutex_);
  v1::EngineScoreResponse score_ OCTAVO_GUARDED_BY(mutex_);
  bool finished_ OCTAVO_GUARDED_BY(mutex_) = false;
  absl::Status failure_ OCTAVO_GUARDED_BY(mutex_);
  std::optional<Steady::time_point> begun_ OCTAVO_GUARDED_BY(mutex_);
  std::optional<Steady::time_point> first_ OCTAVO_GUARDED_BY(mutex_);  // token
  std::optional<Steady::time_point> last_ OCTAVO_GUARDED_BY(mutex_);   // after that
};

}  // namespace octavo
