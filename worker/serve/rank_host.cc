#include "worker/serve/rank_host.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "core/tensor/bare/fp_env.h"
#include "fmt/format.h"
#include "worker/serve/serving_rank.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

// How long the memory of a group that ended may stay held by calls that are still returning.
constexpr milliseconds kReleaseTimeout{10000};

}  // namespace

RankHost::RankHost(Options options, std::function<void(v1::Report)> send, Metrics* metrics)
    : options_(std::move(options)),
      send_(std::move(send)),
      metrics_(metrics),
      rendezvous_(send_),
      thread_([this](const std::stop_token& stop) { WorkLoop(stop); }) {}

RankHost::~RankHost() {
  EndGroup(UINT64_MAX, "the worker is stopping");
  thread_.request_stop();
  {
    MutexLock lock(mutex_);
    changed_.NotifyAll();
  }
  thread_.join();
  TakeApart(UINT64_MAX);
}

void RankHost::Load(const v1::LoadRank& load) { Push(load.group_epoch(), &load); }

void RankHost::AbortGroup(const v1::AbortGroup& abort) {
  EndGroup(abort.group_epoch(), abort.why());
  Push(abort.group_epoch(), nullptr);
}

void RankHost::Unload(const v1::UnloadRank& unload) {
  EndGroup(unload.group_epoch(), "the model was unloaded");
  Push(unload.group_epoch(), nullptr);
}

void RankHost::Push(uint64_t epoch, const v1::LoadRank* load) {
  MutexLock lock(mutex_);
  Command& command = commands_.emplace_back();
  command.epoch = epoch;
  command.lease = lease_;
  if (load != nullptr) command.load = *load;
  changed_.NotifyAll();
}

void RankHost::EndGroup(uint64_t epoch, const std::string& why) {
  rendezvous_.Abort(epoch);
  std::shared_ptr<Serving> present;
  {
    MutexLock lock(mutex_);
    ended_epoch_ = std::max(ended_epoch_, epoch);
    if (serving_ != nullptr && serving_->load.group_epoch() <= epoch) present = serving_;
  }
  if (present != nullptr) present->End(why);
}

void RankHost::WorkLoop(const std::stop_token& stop) {
  const FpEnv environment;
  while (!stop.stop_requested()) {
    std::optional<Command> next;
    std::shared_ptr<Serving> present;
    {
      MutexLock lock(mutex_);
      if (commands_.empty()) {
        changed_.WaitFor(mutex_, milliseconds(200));
        present = serving_;
      } else {
        next = std::move(commands_.front());
        commands_.pop_front();
      }
    }
    if (!next.has_value()) {
      EndOrphan();
      if (present != nullptr) Show(*present);
      continue;
    }
    const Command& command = *next;
    if (!command.load.has_value()) {
      TakeApart(command.epoch);
      continue;
    }
    // A new group replaces the old one, whatever became of it.
    EndGroup(command.epoch - 1, "another group takes its place");
    TakeApart(command.epoch - 1);
    const v1::LoadRank& load = *command.load;
    const absl::Status status = Assemble(load, command.lease);
    if (status.ok()) {
      Report(load.group_epoch(), load.rank(), v1::RANK_READY, status);
    } else {
      spdlog::error("rank {} of group {} failed: {}", load.rank(), load.group_epoch(),
                    std::string(status.message()));
      EndGroup(load.group_epoch(), std::string(status.message()));
      TakeApart(load.group_epoch());
      Report(load.group_epoch(), load.rank(), v1::RANK_FAILED, status);
    }
  }
}

void RankHost::TakeApart(uint64_t epoch) {
  std::weak_ptr<Serving> gone;
  uint64_t its_epoch = 0;
  uint32_t rank = 0;
  {
    MutexLock lock(mutex_);
    if (serving_ == nullptr || serving_->load.group_epoch() > epoch) return;
    its_epoch = serving_->load.group_epoch();
    rank = serving_->load.rank();
    gone = serving_;
  }
  {
    // Destroyed outside the lock: the engine's thread may need it to end.
    std::shared_ptr<Serving> last;
    MutexLock lock(mutex_);
    last = std::exchange(serving_, nullptr);
  }
  const auto until = std::chrono::steady_clock::now() + kReleaseTimeout;
  while (!gone.expired() && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(milliseconds(2));
  }
  metrics_->Set(metric::kGroupEpoch, 0);
  metrics_->Set(metric::kWeightBytes, 0);
  ShowLoad({});
  for (const char* dtype : {"bf16", "fp8"}) metrics_->Set(metric::kKvBytes, 0, {dtype});
  spdlog::info("rank {} of group {} is unloaded", rank, its_epoch);
  Report(its_epoch, rank, v1::RANK_UNLOADED, absl::OkStatus());
}

absl::Status RankHost::Assemble(const v1::LoadRank& load, uint64_t lease) {
  auto serving = std::make_shared<Serving>();
  serving->load = load;
  {
    MutexLock lock(mutex_);
    if (load.group_epoch() <= ended_epoch_ || lease != lease_) {
      return MakeError(Reason::kGroupLost, "the group was aborted before it formed");
    }
    serving_ = serving;
  }
  spdlog::info("loading rank {} of {} of {} (group {})", load.rank(), load.plan().rank_count(),
               load.model_dir(), load.group_epoch());
  OCTAVO_RETURN_IF_ERROR(Join(load, *serving));
  OCTAVO_ASSIGN_OR_RETURN(serving->model, options_.load(load, serving->communicator.get()));
  metrics_->Set(metric::kGroupEpoch, static_cast<double>(load.group_epoch()));
  metrics_->Set(metric::kWeightBytes, static_cast<double>(serving->model.weight_bytes));
  metrics_->Set(metric::kKvBytes,
                static_cast<double>(load.plan().ranks(static_cast<int>(load.rank())).kv_bytes()),
                {load.plan().cache_scales().empty() ? "bf16" : "fp8"});
  if (load.rank() == 0) {
    Lead(load, serving);
  } else {
    serving->follower = std::make_unique<Follower>(
        load.group_epoch(), [this, raw = serving.get()](const v1::Step& step) {
          return TimedRun(*raw, step).status();
        });
  }
  MutexLock lock(serving->mutex);
  if (serving->over) return MakeError(Reason::kGroupLost, serving->why);
  serving->ready = true;
  return absl::OkStatus();
}

absl::Status RankHost::Join(const v1::LoadRank& load, Serving& serving) {
  OCTAVO_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> communicator,
                          MakeProcessGroup({.rank = static_cast<int>(load.rank()),
                                            .size = static_cast<int>(load.plan().rank_count()),
                                            .host = options_.host,
                                            .collectives = options_.collectives},
                                           rendezvous_.ForGroup(load.group_epoch())));
  MutexLock lock(serving.mutex);
  if (serving.over) return MakeError(Reason::kGroupLost, serving.why);
  serving.communicator = std::move(communicator);
  return absl::OkStatus();
}

void RankHost::Lead(const v1::LoadRank& load, const std::shared_ptr<Serving>& serving) {
  std::vector<std::string> followers(load.engine_addresses().begin(),
                                     load.engine_addresses().end());
  if (!followers.empty()) followers.erase(followers.begin());
  FollowerLink link = options_.link(followers);
  // The hooks must not keep the group alive: the group owns the engine that owns them.
  Serving* raw = serving.get();
  const uint64_t epoch = load.group_epoch();
  auto engine = std::make_unique<Engine>(
      Engine::Options{
          .group_epoch = epoch,
          .vocab_size = load.plan().model().vocab_size(),
          .layer_count = load.plan().model().layer_count(),
          .hidden_size = load.plan().model().hidden_size(),
          .isa = options_.isa,
          .threads = serving->model.threads,
          .limits = {.block_count = serving->model.kv_block_count,
                     .max_model_len = static_cast<uint32_t>(load.plan().max_model_len()),
                     .max_batched_tokens = load.plan().max_batched_tokens(),
                     .max_sequences = load.plan().max_sequences()}},
      Engine::Hooks{.send = link.send,
                    .run = [this, raw](const v1::Step& step) { return TimedRun(*raw, step); },
                    .spread = serving->model.spread,
                    .residuals = [raw] { return std::span<const uint16_t>(raw->logits.residuals); },
                    .collect = link.collect,
                    .broken =
                        [this, raw, epoch](const absl::Status& why) {
                          raw->End(std::string(why.message()));
                          Report(epoch, 0, v1::RANK_FAILED, why);
                        }},
      Clock::System());
  MutexLock lock(serving->mutex);
  serving->link = std::move(link);
  serving->engine = std::move(engine);
}

absl::StatusOr<std::span<const float>> RankHost::TimedRun(Serving& serving, const v1::Step& step) {
  size_t tokens = 0;
  std::string_view kind = "decode";
  for (const v1::StepChunk& chunk : step.chunks()) {
    tokens += static_cast<size_t>(chunk.tokens_size());
    if (chunk.tokens_size() > 1) kind = "prefill";
  }
  const auto start = std::chrono::steady_clock::now();
  OCTAVO_RETURN_IF_ERROR(serving.model.run(step, &serving.logits));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  metrics_->Add(metric::kEngineSteps, 1, {kind});
  metrics_->Observe(metric::kEngineStepSeconds, took.count(), {kind});
  metrics_->Add(metric::kEngineTokens, static_cast<double>(tokens), {kind});
  metrics_->Observe(metric::kEngineStepTokens, static_cast<double>(tokens));
  Show(serving);
  return std::span<const float>(serving.logits.values);
}

void RankHost::Show(Serving& serving) {
  if (serving.engine == nullptr) return;
  MutexLock lock(serving.showing);
  const EngineFigures figures = serving.engine->figures();
  EngineFigures& counted = serving.counted;
  const auto count = [&](const MetricDef& counter, uint64_t EngineFigures::*figure) {
    metrics_->Add(counter, static_cast<double>(figures.*figure - counted.*figure));
  };
  count(metric::kEnginePreemptions, &EngineFigures::preemptions);
  count(metric::kPrefixTokens, &EngineFigures::prefix_tokens);
  count(metric::kPrefixTokensFound, &EngineFigures::prefix_tokens_found);
  counted = figures;
  ShowLoad(figures);
}

void RankHost::ShowLoad(const EngineFigures& figures) {
  const auto used = static_cast<double>(figures.kv_blocks - figures.kv_blocks_free);
  metrics_->Set(metric::kEngineRunning, static_cast<double>(figures.running));
  metrics_->Set(metric::kEngineWaiting, static_cast<double>(figures.queued));
  metrics_->Set(metric::kKvBlocks, used, {"used"});
  metrics_->Set(metric::kKvBlocks, figures.kv_blocks_free, {"free"});
  metrics_->Set(metric::kKvUsage, used / std::max(1u, figures.kv_blocks));
}

void RankHost::Report(uint64_t epoch, uint32_t rank, v1::RankState state, const absl::Status& why) {
  v1::Report report;
  v1::RankReport& message = *report.mutable_rank();
  message.set_group_epoch(epoch);
  message.set_rank(rank);
  message.set_state(state);
  if (!why.ok()) {
    message.mutable_failure()->set_reason(std::string(InfoOf(ReasonOf(why)).name));
    message.mutable_failure()->set_message(std::string(why.message()));
  }
  send_(std::move(report));
}

std::shared_ptr<RankHost::Serving> RankHost::serving() const {
  MutexLock lock(mutex_);
  return serving_;
}

absl::StatusOr<std::shared_ptr<Engine>> RankHost::engine() const {
  const std::shared_ptr<Serving> present = serving();
  if (present != nullptr) {
    MutexLock lock(present->mutex);
    if (present->ready && present->engine != nullptr) {
      return std::shared_ptr<Engine>(present, present->engine.get());
    }
  }
  return MakeError(Reason::kNotReady, "this worker does not lead a serving group");
}

v1::StepDone RankHost::Follow(const v1::Step& step) {
  const FpEnv environment;
  const std::shared_ptr<Serving> present = serving();
  absl::Status refused;
  if (present == nullptr || present->load.group_epoch() != step.group_epoch()) {
    refused = MakeError(Reason::kFenced,
                        fmt::format("this worker is not in group epoch {}", step.group_epoch()));
  } else {
    MutexLock lock(present->mutex);
    if (!present->ready || present->follower == nullptr) {
      refused = MakeError(Reason::kNotReady, "this rank is not a loaded follower");
    }
  }
  if (refused.ok()) return present->follower->Execute(step);
  v1::StepDone done;
  done.set_index(step.index());
  done.mutable_failure()->set_reason(std::string(InfoOf(ReasonOf(refused)).name));
  done.mutable_failure()->set_message(std::string(refused.message()));
  return done;
}

absl::StatusOr<RankHost::Model> RankHost::model() const {
  const std::shared_ptr<Serving> present = serving();
  if (present == nullptr) return MakeError(Reason::kNotReady, "this worker serves no model");
  return Model{.id = present->load.model_id(), .dir = present->load.model_dir()};
}

}  // namespace octavo
