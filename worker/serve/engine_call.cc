#include "worker/serve/engine_call.h"

#include <utility>

#include "core/base/status.h"

namespace octavo {

EngineCall::News EngineCall::Wait(std::chrono::milliseconds timeout, v1::EngineEvent* event) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(mutex_);
  while (!finished_ && failure_.ok() && !HasTokens() && !rows_.has_value()) {
    const auto now = std::chrono::steady_clock::now();
    if (now >= until) return News::kNothing;
    changed_.WaitFor(mutex_, until - now);
  }
  // Tokens that came before a failure are delivered before it.
  if (!failure_.ok() && !HasTokens()) return News::kFailed;
  if (rows_.has_value()) return News::kEvent;
  *event = std::exchange(event_, v1::EngineEvent());
  return finished_ ? News::kFinished : News::kEvent;
}

absl::Status EngineCall::failure() const {
  MutexLock lock(mutex_);
  return failure_;
}

v1::EngineScoreResponse EngineCall::TakeScore() {
  MutexLock lock(mutex_);
  return std::exchange(score_, v1::EngineScoreResponse());
}

void EngineCall::AddToken(v1::EngineToken token, v1::FinishReason end, int32_t stop_id) {
  MutexLock lock(mutex_);
  if (finished_ || !failure_.ok()) return;
  *event_.add_tokens() = std::move(token);
  (first_.has_value() ? last_ : first_) = Steady::now();
  if (end != v1::FINISH_UNSPECIFIED) {
    finished_ = true;
    event_.set_finish(end);
    event_.set_stop_id(stop_id);
  }
  changed_.NotifyAll();
}

void EngineCall::Begin(uint32_t cached) {
  MutexLock lock(mutex_);
  event_.set_cached_tokens(cached);
  begun_ = Steady::now();
}

EngineCall::Times EngineCall::times() const {
  const auto seconds = [](Steady::duration time) {
    return std::chrono::duration<double>(time).count();
  };
  MutexLock lock(mutex_);
  Times times;
  if (begun_.has_value()) times.queued = seconds(*begun_ - made_);
  if (begun_.has_value() && first_.has_value()) times.prefill = seconds(*first_ - *begun_);
  if (last_.has_value()) times.decode = seconds(*last_ - *first_);
  return times;
}

void EngineCall::AddPrompt(const v1::EngineEvent& part) {
  MutexLock lock(mutex_);
  if (finished_ || !failure_.ok()) return;
  event_.MergeFrom(part);
  changed_.NotifyAll();
}

void EngineCall::AddRows(Rows rows) {
  MutexLock lock(mutex_);
  if (finished_ || !failure_.ok()) return;
  OCTAVO_CHECK(!rows_.has_value());
  rows_ = std::move(rows);
  changed_.NotifyAll();
}

bool EngineCall::HasRows() const {
  MutexLock lock(mutex_);
  return rows_.has_value();
}

std::optional<EngineCall::Rows> EngineCall::TakeRows() {
  MutexLock lock(mutex_);
  return std::exchange(rows_, std::nullopt);
}

void EngineCall::AddScores(const v1::EngineScoreResponse& part) {
  MutexLock lock(mutex_);
  const double sum = score_.nll_sum() + part.nll_sum();
  score_.MergeFrom(part);
  score_.set_nll_sum(sum);
}

void EngineCall::Finish(v1::FinishReason reason, int32_t stop_id) {
  MutexLock lock(mutex_);
  if (finished_ || !failure_.ok()) return;
  finished_ = true;
  event_.set_finish(reason);
  event_.set_stop_id(stop_id);
  changed_.NotifyAll();
}

void EngineCall::Fail(const absl::Status& status) {
  MutexLock lock(mutex_);
  if (finished_ || !failure_.ok()) return;
  failure_ = status;
  changed_.NotifyAll();
}

}  // namespace octavo
