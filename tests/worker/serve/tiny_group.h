#pragma once

// An engine over real runners: a tiny random model, and the ranks of a group as threads of this
// process. Every row of logits that a step computed is kept as a digest.

#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/mutex.h"
#include "gtest/gtest.h"
#include "tests/worker/runner/tiny_model.h"
#include "worker/comm/local_group.h"
#include "worker/runner/runner.h"
#include "worker/serve/engine.h"
#include "worker/serve/follower.h"

namespace octavo::testing {

struct GroupSettings {
  uint32_t ranks = 1;
  Isa isa = BestIsa();
  uint32_t batched_tokens = 1024;
  uint32_t sequences = 64;
  uint32_t blocks = 0;     // of the cache; 0: enough for all sequences
  bool every_row = false;  // logits of all positions are computed, not only those asked for
};

class TinyGroup {
 public:
  // The logits of one position of one sequence (EngineCall::id), as a step gave them.
  struct Row {
    uint64_t sequence;
    uint32_t position;
    std::pair<uint64_t, uint64_t> digest;
  };

  TinyGroup(const TinyModel& model, const GroupSettings& settings) : settings_(settings) {
    ServeOptions options;
    options.rank_count = settings.ranks;
    options.max_batched_tokens = settings.batched_tokens;
    options.max_sequences = settings.sequences;
    const auto plan = PlanServing(model.spec, model.tensors, options, model.cache_scales);
    if (!plan.ok()) throw std::runtime_error(plan.status().ToString());
    group_ = MakeLocalGroup(static_cast<int>(settings.ranks));
    for (uint32_t rank = 0; rank < settings.ranks; ++rank) {
      auto runner = ModelRunner::Load(model.dir, *plan, rank, group_[rank].get(),
                                      {.threads = 1, .isa = settings.isa, .memory_bytes = 0});
      if (!runner.ok()) throw std::runtime_error(runner.status().ToString());
      runners_.push_back(*std::move(runner));
      if (rank == 0) continue;
      followers_.push_back(std::make_unique<Follower>(
          kEpoch, [this, rank](const v1::Step& step) { return RunRank(rank, step, nullptr); }));
    }
    vocab_ = static_cast<size_t>(plan->model().vocab_size());
    const SchedulerLimits limits = {
        .block_count = settings.blocks == 0 ? plan->kv_block_count() : settings.blocks,
        .max_model_len = static_cast<uint32_t>(plan->max_model_len()),
        .max_batched_tokens = settings.batched_tokens,
        .max_sequences = settings.sequences};
    EXPECT_LE(limits.block_count, plan->kv_block_count());
    engine = std::make_unique<Engine>(
        Engine::Options{.group_epoch = kEpoch,
                        .vocab_size = plan->model().vocab_size(),
                        .layer_count = plan->model().layer_count(),
                        .hidden_size = plan->model().hidden_size(),
                        .isa = settings.isa,
                        .limits = limits},
        Engine::Hooks{.send = [this](const v1::Step& step) { return Send(step); },
                      .run = [this](const v1::Step& step) { return Lead(step); },
                      .residuals = [] { return std::span<const uint16_t>(); },
                      .collect = [this](uint64_t) { return Collect(); },
                      .broken = [](const absl::Status& why) { ADD_FAILURE() << why; }},
        Clock::System());
  }
  ~TinyGroup() { engine.reset(); }

  // What the steps so far gave, in their order.
  std::vector<Row> rows() const {
    MutexLock lock(mutex_);
    return rows_;
  }

  // Steps begin while nobody holds it: what is asked meanwhile is asked at once.
  Mutex gate;

  std::unique_ptr<Engine> engine;

 private:
  static constexpr uint64_t kEpoch = 5;

  bool IsComputed(const v1::StepChunk& chunk, int token) const {
    return settings_.every_row || IsAsked(chunk, token);
  }
  static bool IsAsked(const v1::StepChunk& chunk, int token) {
    return chunk.logits_all() || (chunk.logits_last() && token + 1 == chunk.tokens_size());
  }

  absl::Status RunRank(uint32_t rank, v1::Step step, Logits* out) {
    for (v1::StepChunk& chunk : *step.mutable_chunks()) {
      if (settings_.every_row) chunk.set_logits_all(true);
    }
    const absl::Status status = runners_[rank]->Run(step, out);
    if (!status.ok()) group_[rank]->Abort(std::string(status.message()));
    return status;
  }

  absl::Status Send(const v1::Step& step) {
    { const MutexLock open(gate); }
    for (auto& follower : followers_) {
      done_.push_back(
          std::async(std::launch::async, [&follower, step] { return follower->Execute(step); }));
    }
    return absl::OkStatus();
  }

  std::vector<v1::StepDone> Collect() {
    std::vector<v1::StepDone> done;
    for (auto& one : std::exchange(done_, {})) done.push_back(one.get());
    return done;
  }

  absl::StatusOr<std::span<const float>> Lead(const v1::Step& step) {
    if (const absl::Status status = RunRank(0, step, &logits_); !status.ok()) return status;
    asked_.clear();
    const float* row = logits_.values.data();
    MutexLock lock(mutex_);
    for (const v1::StepChunk& chunk : step.chunks()) {
      for (int i = 0; i < chunk.tokens_size(); ++i) {
        if (!IsComputed(chunk, i)) continue;
        const v1::Digest digest = DigestOfRow(row, vocab_);
        rows_.push_back({chunk.sequence(),
                         chunk.start() + static_cast<uint32_t>(i),
                         {digest.low(), digest.high()}});
        if (IsAsked(chunk, i)) asked_.insert(asked_.end(), row, row + vocab_);
        row += vocab_;
      }
    }
    return asked_;
  }

  const GroupSettings settings_;
  size_t vocab_ = 0;
  std::vector<std::unique_ptr<Communicator>> group_;
  std::vector<std::unique_ptr<ModelRunner>> runners_;
  std::vector<std::unique_ptr<Follower>> followers_;
  std::vector<std::future<v1::StepDone>> done_;
  Logits logits_;
  std::vector<float> asked_;
  mutable Mutex mutex_;
  std::vector<Row> rows_ OCTAVO_GUARDED_BY(mutex_);
};

}  // namespace octavo::testing
