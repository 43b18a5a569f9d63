#include "worker/serve/scheduler.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {

absl::Status Scheduler::Add(NewSequence sequence, Clock::Nanos now) {
  const size_t length = sequence.tokens.size();
  if (length == 0) return MakeError(Reason::kBadRequest, "the prompt has no tokens");
  const size_t least = length + (sequence.max_new_tokens > 0 ? 1 : 0);
  if (least > limits_.max_model_len) {
    return MakeError(Reason::kBadRequest,
                     fmt::format("the prompt has {} tokens, the model takes {} with the answer",
                                 length, limits_.max_model_len),
                     {}, "shorten it, or load the model with a larger --max-model-len");
  }
  const size_t room = std::min<size_t>(length + sequence.max_new_tokens, limits_.max_model_len);
  if (BlockPool::BlocksFor(room) > pool_.block_count()) {
    return MakeError(Reason::kOutOfMemory,
                     fmt::format("{} tokens need {} KV blocks, the group has {}", room,
                                 BlockPool::BlocksFor(room), pool_.block_count()),
                     {}, "ask for fewer tokens, or give the workers more --memory");
  }
  if (sequence.deadline.has_value() && *sequence.deadline <= now) {
    return MakeError(Reason::kDeadline, "the deadline passed before the request was queued");
  }
  if (queue_.size() >= limits_.queue_max) {
    return MakeError(Reason::kQueueFull, fmt::format("{} requests are waiting", queue_.size()), {},
                     "try again later");
  }
  queue_.push_back(Sequence{.facts = std::move(sequence), .room = room});
  return absl::OkStatus();
}

bool Scheduler::Cancel(uint64_t id) {
  if (running_.has_value() && running_->facts.id == id) {
    running_->cancelled = true;
    return true;
  }
  for (Sequence& sequence : queue_) {
    if (sequence.facts.id != id) continue;
    sequence.cancelled = true;
    return true;
  }
  return false;
}

std::optional<Scheduler::End> Scheduler::Over(const Sequence& sequence, Clock::Nanos now) {
  if (sequence.cancelled) return End::kCancelled;
  if (sequence.facts.deadline.has_value() && *sequence.facts.deadline <= now) {
    return End::kDeadline;
  }
  return std::nullopt;
}

Scheduler::Decision Scheduler::Next(Clock::Nanos now) {
  Decision decision;
  if (running_.has_value()) {
    if (const auto why = Over(*running_, now)) {
      decision.ended.push_back({running_->facts.id, *why});
      Remove(running_->facts.id);
    }
  }
  std::erase_if(queue_, [&](const Sequence& sequence) {
    const auto why = Over(sequence, now);
    if (why.has_value()) decision.ended.push_back({sequence.facts.id, *why});
    return why.has_value();
  });
  if (!running_.has_value() && !queue_.empty()) {
    running_ = std::move(queue_.front());
    queue_.pop_front();
    decision.started.push_back(running_->facts.id);
  }
  if (running_.has_value() && !running_->held &&
      running_->computed < running_->facts.tokens.size()) {
    decision.chunks.push_back(NextChunk(*running_));
  }
  return decision;
}

v1::StepChunk Scheduler::NextChunk(Sequence& sequence) {
  const std::vector<int32_t>& tokens = sequence.facts.tokens;
  uint32_t limit = limits_.chunk_tokens;
  if (sequence.facts.chunk_tokens > 0) limit = std::min(limit, sequence.facts.chunk_tokens);
  const size_t begin = sequence.computed;
  const size_t end = std::min<size_t>(tokens.size(), begin + limit);
  // One sequence runs and Add has seen that it fits.
  OCTAVO_CHECK(pool_.Grow(sequence.blocks, end));
  v1::StepChunk chunk;
  chunk.set_sequence(sequence.facts.id);
  chunk.set_start(static_cast<uint32_t>(begin));
  chunk.mutable_tokens()->Add(tokens.begin() + static_cast<ptrdiff_t>(begin),
                              tokens.begin() + static_cast<ptrdiff_t>(end));
  chunk.mutable_blocks()->Add(sequence.blocks.begin(), sequence.blocks.end());
  chunk.set_logits_all(sequence.facts.logits_all);
  chunk.set_residuals(sequence.facts.residuals);
  chunk.set_logits_last(!sequence.facts.logits_all && end == tokens.size());
  sequence.computed = end;
  return chunk;
}

bool Scheduler::Append(uint64_t id, int32_t token) {
  OCTAVO_CHECK(running_.has_value() && running_->facts.id == id);
  running_->facts.tokens.push_back(token);
  return running_->facts.tokens.size() < running_->room;
}

void Scheduler::Hold(uint64_t id, bool held) {
  if (running_.has_value() && running_->facts.id == id) running_->held = held;
}

void Scheduler::Remove(uint64_t id) {
  if (!running_.has_value() || running_->facts.id != id) return;
  pool_.Free(running_->blocks);
  running_.reset();
}

bool Scheduler::IsRunning(uint64_t id) const {
  return running_.has_value() && running_->facts.id == id;
}

}  // namespace octavo
