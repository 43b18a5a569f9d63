#pragma once

// The leader's loop: schedule, have every rank run the step, compare what they ran, sample, emit.
// The only owner of sequences. One step is one decision; followers execute it and never decide.
//
// Knows neither gRPC nor how steps travel: that comes in as callbacks.

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "core/base/clock.h"
#include "core/base/mutex.h"
#include "kernels/isa.h"
#include "octavo/v1/engine.pb.h"
#include "worker/serve/engine_call.h"
#include "worker/serve/sampler.h"
#include "worker/serve/scheduler.h"
#include "worker/serve/step_state.h"
#include "worker/serve/token_rules.h"

namespace octavo {

// Where the leader's loop spends its time, besides in Hooks.run.
enum class EnginePhase { kSchedule, kPrepare, kCollect, kSample, kEmit };
inline constexpr size_t kEnginePhases = 5;

// What the engine has done so far and what it holds now; for metrics.
struct EngineFigures {
  uint64_t steps = 0;
  uint64_t tokens = 0;      // computed, those of preempted sequences again
  uint64_t new_tokens = 0;  // sampled
  uint64_t preemptions = 0;
  // Of sequences when they first ran: tokens looked for in the prefix cache, and found.
  uint64_t prefix_tokens = 0;
  uint64_t prefix_tokens_found = 0;
  // Of sequences whenever they were let in, their tokens: not computed yet; found in the prefix
  // cache; to be computed again, after a preemption or in another group.
  uint64_t let_in_new = 0;
  uint64_t let_in_found = 0;
  uint64_t let_in_again = 0;
  std::array<uint64_t, kEnginePhases> nanos = {};  // of steps, by EnginePhase
  size_t queued = 0;
  bool queue_wants_blocks = false;  // Scheduler::waits_for_blocks
  bool draining = false;
  size_t running = 0;
  size_t calls = 0;  // those, and ended ones whose callers have not let go of them
  uint32_t kv_blocks = 0;
  uint32_t kv_blocks_free = 0;    // the next ones, too
  uint32_t kv_blocks_cached = 0;  // kept for whoever begins alike
};

class Engine {
 public:
  struct Options {
    uint64_t group_epoch = 0;
    int64_t vocab_size = 0;
    int64_t layer_count = 0;  // of residual streams
    int64_t hidden_size = 0;
    Isa isa = BestIsa();
    int threads = 1;  // that `spread` works with
    SchedulerLimits limits;
  };
  struct Hooks {
    // Gives a step to every follower; returns at once.
    std::function<absl::Status(const v1::Step&)> send;
    // Runs a step on this rank. The rows of logits asked for, [rows, vocab_size], in the order of
    // chunks and positions; valid until the next call.
    std::function<absl::StatusOr<std::span<const float>>(const v1::Step&)> run;
    // Calls body(i, thread) once for every i below `count`, `thread` below Options.threads, and
    // returns when all are done. Called between steps; of one thread, never.
    std::function<void(int64_t count, const std::function<void(int64_t i, int thread)>& body)>
        spread = {};
    // The residual streams that the last step asked for, [positions, layers, hidden] BF16; valid as
    // long as its logits.
    std::function<std::span<const uint16_t>()> residuals;
    // Waits until every follower has acknowledged step `index`: one StepDone each. Must end with
    // kGroupLost soon after the group is aborted.
    std::function<absl::StatusOr<std::vector<v1::StepDone>>(uint64_t index)> collect;
    // The group is of no use any more. Called once, from the engine's thread.
    std::function<void(const absl::Status&)> broken;
  };

  Engine(const Options& options, Hooks hooks, const Clock& clock);
  // Fails what is left with kCancelled. The hooks must return soon when this is called: abort the
  // group first.
  ~Engine();

  // Queues a request. Errors: those of Scheduler::Add, CheckGeneration and TokenRules::Create,
  // kBadRequest (an id outside the vocabulary), kNotReady (draining), or the failure that ended the
  // group.
  absl::StatusOr<std::shared_ptr<EngineCall>> Generate(
      const v1::EngineRequest& request, std::optional<Clock::Nanos> deadline = std::nullopt);
  absl::StatusOr<std::shared_ptr<EngineCall>> Score(
      const v1::EngineScoreRequest& request, std::optional<Clock::Nanos> deadline = std::nullopt);

  // The logits of every position of request.ids, as rows that the call brings a chunk at a time.
  // The next chunk is computed while the caller works on the last one, but not before it was taken.
  // Its blocks stay taken that long. So a caller that gives up cancels.
  absl::StatusOr<std::shared_ptr<EngineCall>> Logits(
      const v1::EngineScoreRequest& request, std::optional<Clock::Nanos> deadline = std::nullopt);
  std::optional<EngineCall::Rows> TakeRows(EngineCall& call);

  // From now on nothing new is taken (kNotReady); what there is goes on.
  void Drain();

  // Ends the call with FINISH_CANCELLED before the next step.
  void Cancel(const EngineCall& call);

  // From any thread: fails every call with `why` at once, and all later ones.
  void Abort(const absl::Status& why);

  EngineFigures figures() const;
  int64_t vocab_size() const { return options_.vocab_size; }
  int64_t layer_count() const { return options_.layer_count; }
  int64_t hidden_size() const { return options_.hidden_size; }
  Isa isa() const { return options_.isa; }

 private:
  // A request being worked on.
  struct Active {
    std::shared_ptr<EngineCall> call;
    v1::EngineRequest request;     // of a generation
    v1::EngineScoreRequest score;  // of a score, or of logits
    enum class Kind { kGenerate, kScore, kLogits } kind = Kind::kGenerate;
    bool started = false;
    TokenRules rules;     // of a generation: the output so far, as far as it matters
    uint64_t length = 0;  // tokens so far, prompt included
  };

  // A token that a step's logits ask for.
  struct Draw {
    std::shared_ptr<Active> active;
    std::span<const float> logits;
    absl::StatusOr<v1::EngineToken> token;
  };

  absl::StatusOr<std::shared_ptr<EngineCall>> Queue(Active active, NewSequence sequence);
  absl::StatusOr<std::shared_ptr<EngineCall>> QueueIds(const v1::EngineScoreRequest& request,
                                                       std::optional<Clock::Nanos> deadline,
                                                       Active active);
  absl::Status CheckIds(const google::protobuf::RepeatedField<int32_t>& ids) const;
  void Loop(const std::stop_token& stop);
  // Takes the next decision; nothing to compute: false, after a short wait.
  bool Decide(v1::Step& step);
  // Has every rank run `step`.
  absl::StatusOr<std::span<const float>> RunEverywhere(const v1::Step& step);
  // Counts the time since the last look as that of `phase`; of nothing, where none is given.
  void Look(std::optional<EnginePhase> phase = std::nullopt);
  absl::Status CompareStates(const v1::Step& step, const std::vector<v1::StepDone>& done);
  // What the logits of a step mean for its sequences.
  absl::Status Absorb(const v1::Step& step, std::span<const float> logits);
  absl::Status AbsorbScore(Active& active, const v1::StepChunk& chunk,
                           std::span<const float> logits);
  void AbsorbRows(Active& active, const v1::StepChunk& chunk, std::span<const float> logits,
                  size_t residual_row);
  // Where `chunk` was the last one.
  void FinishAtEnd(Active& active, const v1::StepChunk& chunk);
  // Of a generation: what is told of the prompt, and where the sequence ends here, that its next
  // token is to be drawn.
  absl::Status AbsorbChunk(const std::shared_ptr<Active>& active, const v1::StepChunk& chunk,
                           std::span<const float> logits, std::vector<Draw>* draws);
  absl::Status AbsorbPrompt(Active& active, const v1::StepChunk& chunk,
                            std::span<const float> logits);
  // Draws the tokens, on all threads: a draw depends on its own sequence alone.
  void DrawTokens(std::span<Draw> draws);
  void AbsorbToken(Active& active, v1::EngineToken token);
  // Frees a sequence that is done.
  void Forget(uint64_t id);

  const Options options_;
  const Hooks hooks_;
  const Clock& clock_;

  mutable Mutex mutex_;
  CondVar changed_;
  Scheduler scheduler_ OCTAVO_GUARDED_BY(mutex_);
  absl::flat_hash_map<uint64_t, std::shared_ptr<Active>> active_ OCTAVO_GUARDED_BY(mutex_);
  uint64_t next_id_ OCTAVO_GUARDED_BY(mutex_) = 1;
  const std::shared_ptr<const bool> mark_ = std::make_shared<const bool>(true);  // of its calls
  bool draining_ OCTAVO_GUARDED_BY(mutex_) = false;
  absl::Status failure_ OCTAVO_GUARDED_BY(mutex_);
  EngineFigures figures_ OCTAVO_GUARDED_BY(mutex_);

  // The loop's own.
  uint64_t next_step_ = 0;
  std::chrono::steady_clock::time_point looked_;
  std::array<uint64_t, kEnginePhases> nanos_ = {};
  StepState state_;
  std::vector<Sampler> samplers_;  // by thread
  std::jthread thread_;
};

}  // namespace octavo
