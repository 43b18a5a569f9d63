#include "worker/serve/engine.h"

#include <algorithm>
#include <utility>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "core/tensor/bare/fp_env.h"
#include "core/text/generation_bounds.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// An idle engine looks for expired deadlines this often.
constexpr std::chrono::milliseconds kIdleWait{20};

absl::Status FromFailure(const v1::Failure& failure, uint64_t rank) {
  const Reason reason = ReasonFromName(failure.reason()).value_or(Reason::kInternal);
  return MakeError(reason, fmt::format("rank {}: {}", rank, failure.message()));
}

// Tokens of a chunk whose rows take `row_bytes` each.
uint32_t ScoreChunk(uint32_t asked, uint64_t row_bytes) {
  const auto fits =
      static_cast<uint32_t>(std::clamp<uint64_t>(kScoreLogitsBytes / row_bytes, 1, 1 << 20));
  return asked == 0 ? fits : std::min(asked, fits);
}

}  // namespace

Engine::Engine(const Options& options, Hooks hooks, const Clock& clock)
    : options_(options),
      hooks_(std::move(hooks)),
      clock_(clock),
      scheduler_(options.limits),
      samplers_(static_cast<size_t>(options.threads), Sampler(options.isa)) {
  thread_ = std::jthread([this](const std::stop_token& stop) { Loop(stop); });
}

Engine::~Engine() {
  Abort(MakeError(Reason::kCancelled, "the model was unloaded"));
  thread_.request_stop();
}

absl::Status Engine::CheckIds(const google::protobuf::RepeatedField<int32_t>& ids) const {
  for (const int32_t id : ids) {
    if (id < 0 || id >= options_.vocab_size) {
      return MakeError(
          Reason::kBadRequest,
          fmt::format("token id {} is outside the vocabulary of {}", id, options_.vocab_size));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<EngineCall>> Engine::Generate(const v1::EngineRequest& request,
                                                             std::optional<Clock::Nanos> deadline) {
  OCTAVO_RETURN_IF_ERROR(CheckGeneration(request));
  OCTAVO_RETURN_IF_ERROR(CheckIds(request.prompt()));
  OCTAVO_RETURN_IF_ERROR(CheckIds(request.output()));
  const auto out = static_cast<uint32_t>(request.output_size());
  if (out >= request.max_tokens()) {
    return MakeError(Reason::kBadRequest,
                     fmt::format("{} tokens of {} are out already", out, request.max_tokens()));
  }
  NewSequence sequence;
  sequence.tokens.assign(request.prompt().begin(), request.prompt().end());
  sequence.tokens.insert(sequence.tokens.end(), request.output().begin(), request.output().end());
  sequence.max_new_tokens = request.max_tokens() - out;
  sequence.priority = request.priority();
  sequence.no_prefix_cache = request.no_prefix_cache();
  if (request.prompt_logprobs()) {
    sequence.logits_all = true;
    sequence.chunk_tokens =
        ScoreChunk(0, static_cast<uint64_t>(options_.vocab_size) * sizeof(float));
  }
  sequence.deadline = deadline;
  Active active;
  OCTAVO_ASSIGN_OR_RETURN(active.rules, TokenRules::Create(request, options_.vocab_size));
  for (const int32_t id : request.output()) active.rules.Append(id);
  active.request = request;
  active.length = sequence.tokens.size();
  return Queue(std::move(active), std::move(sequence));
}

absl::StatusOr<std::shared_ptr<EngineCall>> Engine::Score(const v1::EngineScoreRequest& request,
                                                          std::optional<Clock::Nanos> deadline) {
  Active active;
  active.kind = Active::Kind::kScore;
  return QueueIds(request, deadline, std::move(active));
}

absl::StatusOr<std::shared_ptr<EngineCall>> Engine::Logits(const v1::EngineScoreRequest& request,
                                                           std::optional<Clock::Nanos> deadline) {
  Active active;
  active.kind = Active::Kind::kLogits;
  return QueueIds(request, deadline, std::move(active));
}

absl::StatusOr<std::shared_ptr<EngineCall>> Engine::QueueIds(const v1::EngineScoreRequest& request,
                                                             std::optional<Clock::Nanos> deadline,
                                                             Active active) {
  OCTAVO_RETURN_IF_ERROR(CheckIds(request.ids()));
  NewSequence sequence;
  sequence.tokens.assign(request.ids().begin(), request.ids().end());
  sequence.residuals = active.kind == Active::Kind::kLogits && request.want_residuals();
  const auto residual_bytes =
      static_cast<uint64_t>(options_.layer_count * options_.hidden_size) * sizeof(uint16_t);
  sequence.chunk_tokens =
      ScoreChunk(request.chunk(), static_cast<uint64_t>(options_.vocab_size) * sizeof(float) +
                                      (sequence.residuals ? residual_bytes : 0));
  sequence.logits_all = true;
  sequence.deadline = deadline;
  active.score = request;
  active.length = sequence.tokens.size();
  return Queue(std::move(active), std::move(sequence));
}

absl::StatusOr<std::shared_ptr<EngineCall>> Engine::Queue(Active active, NewSequence sequence) {
  MutexLock lock(mutex_);
  OCTAVO_RETURN_IF_ERROR(failure_);
  if (draining_) return MakeError(Reason::kNotReady, "the group takes no more requests");
  sequence.id = next_id_++;
  active.call = std::make_shared<EngineCall>(sequence.id, mark_);
  OCTAVO_RETURN_IF_ERROR(scheduler_.Add(std::move(sequence), clock_.Now()));
  auto call = active.call;
  active_[call->id()] = std::make_shared<Active>(std::move(active));
  changed_.NotifyAll();
  return call;
}

std::optional<EngineCall::Rows> Engine::TakeRows(EngineCall& call) {
  MutexLock lock(mutex_);
  std::optional<EngineCall::Rows> rows = call.TakeRows();
  changed_.NotifyAll();
  return rows;
}

void Engine::Drain() {
  MutexLock lock(mutex_);
  draining_ = true;
}

void Engine::Cancel(const EngineCall& call) {
  MutexLock lock(mutex_);
  scheduler_.Cancel(call.id());
  changed_.NotifyAll();
}

void Engine::Abort(const absl::Status& why) {
  MutexLock lock(mutex_);
  if (failure_.ok()) failure_ = why;
  for (auto& [id, active] : active_) active->call->Fail(failure_);
  active_.clear();
  changed_.NotifyAll();
}

EngineFigures Engine::figures() const {
  MutexLock lock(mutex_);
  EngineFigures figures = figures_;
  figures.queued = scheduler_.queue_size();
  figures.draining = draining_;
  figures.queue_wants_blocks = scheduler_.waits_for_blocks();
  figures.running = scheduler_.running_size();
  figures.calls = static_cast<size_t>(mark_.use_count() - 1);
  figures.kv_blocks = scheduler_.pool().block_count();
  figures.kv_blocks_free = scheduler_.pool().free_count();
  figures.kv_blocks_cached = scheduler_.pool().cached_count();
  return figures;
}

void Engine::Loop(const std::stop_token& stop) {
  const FpEnv environment;
  while (!stop.stop_requested()) {
    v1::Step step;
    Look();
    if (!Decide(step)) continue;
    Look(EnginePhase::kSchedule);
    absl::StatusOr<std::span<const float>> logits = RunEverywhere(step);
    absl::Status status = logits.status();
    if (status.ok()) status = Absorb(step, *logits);
    if (!status.ok()) {
      spdlog::error("step {} of group {} failed: {}", step.index(), options_.group_epoch,
                    std::string(status.message()));
      Abort(status);
      hooks_.broken(status);
      return;
    }
  }
}

void Engine::Look(std::optional<EnginePhase> phase) {
  const auto now = std::chrono::steady_clock::now();
  if (phase.has_value()) {
    nanos_[static_cast<size_t>(*phase)] += static_cast<uint64_t>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(now - looked_).count());
  }
  looked_ = now;
}

bool Engine::Decide(v1::Step& step) {
  MutexLock lock(mutex_);
  if (!failure_.ok()) {
    changed_.WaitFor(mutex_, kIdleWait);
    return false;
  }
  for (const auto& [id, active] : active_) {
    if (active->kind == Active::Kind::kLogits) scheduler_.Hold(id, active->call->HasRows());
  }
  Scheduler::Decision decision = scheduler_.Next(clock_.Now());
  for (const Scheduler::Ended& ended : decision.ended) {
    const auto it = active_.find(ended.id);
    if (it == active_.end()) continue;
    it->second->call->Finish(
        ended.why == Scheduler::End::kDeadline ? v1::FINISH_DEADLINE : v1::FINISH_CANCELLED, -1);
    active_.erase(it);
  }
  figures_.preemptions += decision.preempted.size();
  for (const Scheduler::Started& started : decision.started) {
    const auto it = active_.find(started.id);
    if (it == active_.end()) continue;
    Active& active = *it->second;
    const bool again = active.started || active.request.output_size() > 0;
    figures_.let_in_found += started.reused;
    (again ? figures_.let_in_again : figures_.let_in_new) += started.tokens - started.reused;
    if (std::exchange(active.started, true)) continue;
    active.call->Begin(static_cast<uint32_t>(started.reused));
    figures_.prefix_tokens += started.shares ? started.tokens : 0;
    figures_.prefix_tokens_found += started.reused;
  }
  if (decision.chunks.empty()) {
    if (decision.ended.empty()) changed_.WaitFor(mutex_, kIdleWait);
    return false;
  }
  step.set_group_epoch(options_.group_epoch);
  step.set_index(next_step_++);
  for (v1::StepChunk& chunk : decision.chunks) *step.add_chunks() = std::move(chunk);
  return true;
}

absl::StatusOr<std::span<const float>> Engine::RunEverywhere(const v1::Step& step) {
  OCTAVO_RETURN_IF_ERROR(hooks_.send(step));
  Look(EnginePhase::kPrepare);
  OCTAVO_ASSIGN_OR_RETURN(const std::span<const float> logits, hooks_.run(step));
  Look();
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<v1::StepDone> done, hooks_.collect(step.index()));
  OCTAVO_RETURN_IF_ERROR(CompareStates(step, done));
  Look(EnginePhase::kCollect);
  return logits;
}

absl::Status Engine::CompareStates(const v1::Step& step, const std::vector<v1::StepDone>& done) {
  const v1::Digest mine = state_.Advance(step);
  for (size_t i = 0; i < done.size(); ++i) {
    if (done[i].has_failure()) return FromFailure(done[i].failure(), i + 1);
    if (done[i].index() != step.index() || !Equal(done[i].state(), mine)) {
      return MakeError(
          Reason::kStateMismatch,
          fmt::format("rank {} executed something else in step {}", i + 1, step.index()));
    }
  }
  return absl::OkStatus();
}

}  // namespace octavo
