// What the logits of a step mean for its sequences: tokens, scores, rows.

#include <utility>

#include "core/base/status.h"
#include "worker/serve/engine.h"

namespace octavo {

absl::Status Engine::Absorb(const v1::Step& step, std::span<const float> logits) {
  const auto vocab = static_cast<size_t>(options_.vocab_size);
  size_t row = 0;
  size_t residual_row = 0;
  std::vector<Draw> draws;
  {
    MutexLock lock(mutex_);
    ++figures_.steps;
    figures_.nanos = nanos_;  // as of the step before, where this one is not over yet
  }
  for (const v1::StepChunk& chunk : step.chunks()) {
    const size_t own_residuals = residual_row;
    if (chunk.residuals()) residual_row += static_cast<size_t>(chunk.tokens_size());
    const size_t rows = chunk.logits_all()    ? static_cast<size_t>(chunk.tokens_size())
                        : chunk.logits_last() ? 1
                                              : 0;
    OCTAVO_CHECK((row + rows) * vocab <= logits.size());
    const std::span<const float> mine = logits.subspan(row * vocab, rows * vocab);
    row += rows;
    std::shared_ptr<Active> active;
    {
      MutexLock lock(mutex_);
      figures_.tokens += static_cast<uint64_t>(chunk.tokens_size());
      const auto it = active_.find(chunk.sequence());
      if (it != active_.end()) active = it->second;
    }
    if (active == nullptr || rows == 0) continue;
    if (active->kind == Active::Kind::kLogits) {
      AbsorbRows(*active, chunk, mine, own_residuals);
      continue;
    }
    OCTAVO_RETURN_IF_ERROR(active->kind == Active::Kind::kScore
                               ? AbsorbScore(*active, chunk, mine)
                               : AbsorbChunk(active, chunk, mine, &draws));
  }
  Look(EnginePhase::kEmit);
  DrawTokens(draws);
  Look(EnginePhase::kSample);
  for (Draw& draw : draws) {
    OCTAVO_RETURN_IF_ERROR(draw.token.status());
    AbsorbToken(*draw.active, *std::move(draw.token));
  }
  Look(EnginePhase::kEmit);
  return absl::OkStatus();
}

absl::Status Engine::AbsorbScore(Active& active, const v1::StepChunk& chunk,
                                 std::span<const float> logits) {
  const auto vocab = static_cast<size_t>(options_.vocab_size);
  const auto& ids = active.score.ids();
  v1::EngineScoreResponse part;
  double sum = 0;
  for (int i = 0; i < chunk.tokens_size(); ++i) {
    const std::span<const float> row = logits.subspan(static_cast<size_t>(i) * vocab, vocab);
    if (active.score.want_digests()) *part.add_digests() = DigestOfRow(row.data(), vocab);
    const int next = static_cast<int>(chunk.start()) + i + 1;
    OCTAVO_ASSIGN_OR_RETURN(const LogSum row_sum, LogSumOf(row, options_.isa));
    if (next >= ids.size()) continue;
    const float logprob = row_sum.LogProb(row[static_cast<size_t>(ids[next])]);
    part.add_logprobs(logprob);
    sum -= static_cast<double>(logprob);
  }
  part.set_nll_sum(sum);
  active.call->AddScores(part);
  FinishAtEnd(active, chunk);
  return absl::OkStatus();
}

void Engine::AbsorbRows(Active& active, const v1::StepChunk& chunk, std::span<const float> logits,
                        size_t residual_row) {
  EngineCall::Rows rows;
  rows.start = chunk.start();
  rows.logits.assign(logits.begin(), logits.end());
  if (chunk.residuals()) {
    const auto width = static_cast<size_t>(options_.layer_count * options_.hidden_size);
    const std::span<const uint16_t> all = hooks_.residuals();
    const size_t count = static_cast<size_t>(chunk.tokens_size()) * width;
    OCTAVO_CHECK(residual_row * width + count <= all.size());
    const auto mine = all.subspan(residual_row * width, count);
    rows.residuals.assign(mine.begin(), mine.end());
  }
  active.call->AddRows(std::move(rows));
  FinishAtEnd(active, chunk);
}

void Engine::FinishAtEnd(Active& active, const v1::StepChunk& chunk) {
  if (static_cast<int>(chunk.start()) + chunk.tokens_size() != active.score.ids_size()) return;
  active.call->Finish(v1::FINISH_STOP, -1);
  Forget(active.call->id());
}

absl::Status Engine::AbsorbChunk(const std::shared_ptr<Active>& active, const v1::StepChunk& chunk,
                                 std::span<const float> logits, std::vector<Draw>* draws) {
  const auto vocab = static_cast<size_t>(options_.vocab_size);
  if (chunk.logits_all()) OCTAVO_RETURN_IF_ERROR(AbsorbPrompt(*active, chunk, logits));
  const uint64_t end = uint64_t{chunk.start()} + static_cast<uint64_t>(chunk.tokens_size());
  if (end == active->length) draws->push_back({active, logits.last(vocab), v1::EngineToken()});
  return absl::OkStatus();
}

void Engine::DrawTokens(std::span<Draw> draws) {
  const auto draw = [&](int64_t i, int thread) {
    Draw& one = draws[static_cast<size_t>(i)];
    const v1::EngineRequest& request = one.active->request;
    one.token = samplers_[static_cast<size_t>(thread)].Sample(
        one.logits, one.active->rules, one.active->length,
        {.logprob = request.want_logprob(), .top = request.logprobs()});
  };
  if (options_.threads > 1 && draws.size() > 1) {
    hooks_.spread(static_cast<int64_t>(draws.size()), draw);
    return;
  }
  for (size_t i = 0; i < draws.size(); ++i) draw(static_cast<int64_t>(i), 0);
}

absl::Status Engine::AbsorbPrompt(Active& active, const v1::StepChunk& chunk,
                                  std::span<const float> logits) {
  const auto vocab = static_cast<size_t>(options_.vocab_size);
  const auto& prompt = active.request.prompt();
  v1::EngineEvent part;
  for (int i = 0; i < chunk.tokens_size(); ++i) {
    const int next = static_cast<int>(chunk.start()) + i + 1;
    if (next >= prompt.size()) break;
    OCTAVO_ASSIGN_OR_RETURN(*part.add_prompt(),
                            samplers_.front().Describe(
                                logits.subspan(static_cast<size_t>(i) * vocab, vocab), prompt[next],
                                {.logprob = true, .top = active.request.logprobs()}));
  }
  if (part.prompt_size() > 0) active.call->AddPrompt(part);
  return absl::OkStatus();
}

void Engine::AbsorbToken(Active& active, v1::EngineToken token) {
  const v1::EngineRequest& request = active.request;
  const int32_t id = token.id();
  ++active.length;
  active.rules.Append(id);
  const bool stopped = active.rules.IsStop(id);
  bool room = false;
  {
    MutexLock lock(mutex_);
    ++figures_.new_tokens;
    if (!stopped && scheduler_.IsRunning(active.call->id())) {
      room = scheduler_.Append(active.call->id(), id);
    }
  }
  if (stopped) {
    active.call->AddToken(std::move(token), v1::FINISH_STOP, id);
  } else if (!room || active.rules.emitted() >= request.max_tokens()) {
    active.call->AddToken(std::move(token), v1::FINISH_LENGTH);
  } else {
    active.call->AddToken(std::move(token));
    return;
  }
  Forget(active.call->id());
}

void Engine::Forget(uint64_t id) {
  MutexLock lock(mutex_);
  scheduler_.Remove(id);
  active_.erase(id);
}

}  // namespace octavo
