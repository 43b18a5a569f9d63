#include "worker/serve/scheduler.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {

Scheduler::Scheduler(const SchedulerLimits& limits) : limits_(limits), pool_(limits.block_count) {
  OCTAVO_CHECK(limits.max_sequences >= 1 && limits.max_sequences <= limits.max_batched_tokens);
}

bool Scheduler::Before(const Sequence& a, const Sequence& b) {
  if (a.facts.priority != b.facts.priority) return a.facts.priority < b.facts.priority;
  return a.arrival < b.arrival;
}

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
  uint64_t waiting = 0;  // tokens
  for (const Sequence& other : queue_) waiting += other.facts.tokens.size();
  if (queue_.size() >= limits_.queue_max ||
      (!queue_.empty() && waiting + length > limits_.queue_tokens_max)) {
    return MakeError(Reason::kQueueFull,
                     fmt::format("{} requests of {} tokens are waiting", queue_.size(), waiting),
                     {}, "try again later");
  }
  Sequence added{.facts = std::move(sequence), .arrival = arrivals_++, .room = room};
  added.rows = added.facts.logits_all ? length : 0;
  const auto place = std::ranges::upper_bound(queue_, added, Before);
  queue_.insert(place, std::move(added));
  return absl::OkStatus();
}

bool Scheduler::Cancel(uint64_t id) {
  for (Sequences* sequences : {&running_, &queue_}) {
    for (Sequence& sequence : *sequences) {
      if (sequence.facts.id != id) continue;
      sequence.cancelled = true;
      return true;
    }
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

void Scheduler::Expire(Clock::Nanos now, Decision& decision) {
  for (Sequences* sequences : {&running_, &queue_}) {
    std::erase_if(*sequences, [&](Sequence& sequence) {
      const auto why = Over(sequence, now);
      if (!why.has_value()) return false;
      decision.ended.push_back({sequence.facts.id, *why});
      pool_.Free(sequence.blocks);
      return true;
    });
  }
}

Scheduler::Decision Scheduler::Next(Clock::Nanos now) {
  Decision decision;
  for (Sequence& sequence : running_) KeepBlocks(sequence);
  Expire(now, decision);
  uint32_t room = limits_.max_batched_tokens;
  AddDecodes(room, decision);
  AddPrefills(room, decision);
  return decision;
}

void Scheduler::AddDecodes(uint32_t& room, Decision& decision) {
  for (auto next = running_.begin(); next != running_.end() && room > 0;) {
    // Preempting may take away `sequence` or some that come after it, never those before.
    Sequence& sequence = *next;
    if (sequence.held || !sequence.decodes()) {
      ++next;
      continue;
    }
    const auto before = next == running_.begin() ? running_.end() : std::prev(next);
    if (GrowOrPreempt(sequence, decision)) {
      decision.chunks.push_back(TakeChunk(sequence, 1));
      --room;
      ++next;
    } else {
      next = before == running_.end() ? running_.begin() : std::next(before);
    }
  }
}

bool Scheduler::GrowOrPreempt(Sequence& sequence, Decision& decision) {
  while (!pool_.Grow(sequence.blocks, sequence.facts.tokens.size())) {
    // One that waits for its token stays: the token is given to what runs.
    const auto last = std::find_if(running_.rbegin(), running_.rend(), [](const Sequence& other) {
      return other.rows == 0 && other.rest() > 0;
    });
    const auto victim = std::prev(last.base());  // `sequence` is one of those
    const bool own = &*victim == &sequence;
    decision.preempted.push_back(victim->facts.id);
    GiveBack(*victim);
    const auto place = std::ranges::upper_bound(queue_, *victim, Before);
    queue_.splice(place, running_, victim);
    if (own) return false;
  }
  return true;
}

void Scheduler::AddPrefills(uint32_t& room, Decision& decision) {
  // Blocks that were just taken from one are not for another to start with.
  bool open = decision.preempted.empty();
  waits_for_blocks_ = !open;
  bool scores = false;
  for (auto next = running_.begin(); room > 0;) {
    if (open && !queue_.empty() && (next == running_.end() || Before(queue_.front(), *next))) {
      open = LetIn(next, decision);
      if (open) --next;
      continue;
    }
    if (next == running_.end()) return;
    Sequence& sequence = *next++;
    if (sequence.held || sequence.rest() == 0) continue;
    if (sequence.gives_rows() && std::exchange(scores, true)) continue;
    size_t tokens = std::min<size_t>(sequence.rest(), room);
    if (sequence.facts.chunk_tokens > 0) {
      tokens = std::min<size_t>(tokens, sequence.facts.chunk_tokens);
    }
    decision.chunks.push_back(TakeChunk(sequence, tokens));
    room -= static_cast<uint32_t>(tokens);
  }
}

bool Scheduler::LetIn(Sequences::iterator next, Decision& decision) {
  Sequence& sequence = queue_.front();
  if (running_.size() >= limits_.max_sequences) return false;
  const size_t length = sequence.facts.tokens.size();
  size_t& kept = sequence.kept;
  while (sequence.shares() && (kept + 1) * kKvBlockTokens < length &&
         pool_.Reuse(sequence.prefix, sequence.block_tokens(kept), sequence.blocks)) {
    ++kept;
  }
  if (!pool_.Grow(sequence.blocks, sequence.rows > 0 ? sequence.room : length)) {
    GiveBack(sequence);
    waits_for_blocks_ = true;
    return false;
  }
  sequence.computed = kept * kKvBlockTokens;
  decision.started.push_back({sequence.facts.id, length, sequence.shares(), sequence.computed});
  running_.splice(next, queue_, queue_.begin());
  return true;
}

void Scheduler::GiveBack(Sequence& sequence) {
  pool_.Free(sequence.blocks);
  sequence.computed = 0;
  sequence.kept = 0;
  sequence.prefix = BlockPool::kNoPrefix;
}

void Scheduler::KeepBlocks(Sequence& sequence) {
  for (size_t& kept = sequence.kept;
       sequence.shares() && (kept + 1) * kKvBlockTokens <= sequence.computed; ++kept) {
    pool_.Keep(sequence.prefix, sequence.block_tokens(kept), sequence.blocks[kept]);
  }
}

v1::StepChunk Scheduler::TakeChunk(Sequence& sequence, size_t tokens) {
  const std::vector<int32_t>& all = sequence.facts.tokens;
  const size_t begin = sequence.computed;
  const size_t end = begin + tokens;
  v1::StepChunk chunk;
  chunk.set_sequence(sequence.facts.id);
  chunk.set_start(static_cast<uint32_t>(begin));
  chunk.mutable_tokens()->Add(all.begin() + static_cast<ptrdiff_t>(begin),
                              all.begin() + static_cast<ptrdiff_t>(end));
  chunk.mutable_blocks()->Add(sequence.blocks.begin(),
                              sequence.blocks.begin() + BlockPool::BlocksFor(end));
  chunk.set_logits_all(sequence.gives_rows());
  chunk.set_residuals(sequence.facts.residuals && sequence.gives_rows());
  chunk.set_logits_last(!sequence.gives_rows() && end == all.size());
  sequence.computed = end;
  return chunk;
}

Scheduler::Sequence* Scheduler::FindRunning(uint64_t id) {
  for (Sequence& sequence : running_) {
    if (sequence.facts.id == id) return &sequence;
  }
  return nullptr;
}

bool Scheduler::Append(uint64_t id, int32_t token) {
  Sequence* sequence = FindRunning(id);
  OCTAVO_CHECK(sequence != nullptr && sequence->rest() == 0);
  sequence->facts.tokens.push_back(token);
  return sequence->facts.tokens.size() < sequence->room;
}

void Scheduler::Hold(uint64_t id, bool held) {
  if (Sequence* sequence = FindRunning(id)) sequence->held = held;
}

void Scheduler::Remove(uint64_t id) {
  std::erase_if(running_, [&](Sequence& sequence) {
    if (sequence.facts.id != id) return false;
    KeepBlocks(sequence);
    pool_.Free(sequence.blocks);
    return true;
  });
}

bool Scheduler::IsRunning(uint64_t id) const {
  return std::ranges::any_of(running_, [&](const Sequence& s) { return s.facts.id == id; });
}

}  // namespace octavo
