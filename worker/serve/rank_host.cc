#include "worker/serve/rank_host.h"

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
// How often what changes by itself is looked at.
constexpr milliseconds kIdle{100};

}  // namespace

RankHost::RankHost(Options options, std::function<void(v1::Report)> send, Metrics* metrics)
    : options_(std::move(options)),
      send_(std::move(send)),
      metrics_(metrics),
      rendezvous_(send_),
      thread_([this](const std::stop_token& stop) { WorkLoop(stop); }) {}

RankHost::~RankHost() {
  for (const auto& serving : All()) {
    EndGroup(serving->load.group_epoch(), "the worker is stopping", "");
  }
  thread_.request_stop();
  {
    MutexLock lock(mutex_);
    changed_.NotifyAll();
  }
  thread_.join();
  for (const auto& serving : All()) TakeApart(serving->load.group_epoch());
}

void RankHost::Load(const v1::LoadRank& load) {
  auto serving = std::make_shared<Serving>();
  serving->load = load;
  {
    MutexLock lock(mutex_);
    if (!servings_.emplace(load.group_epoch(), std::move(serving)).second) return;
  }
  Push({.epoch = load.group_epoch(), .kind = Command::Kind::kAssemble});
}

void RankHost::AbortGroup(const v1::AbortGroup& abort) {
  Dismiss(abort.group_epoch(), abort.why(), "coordinator");
}

void RankHost::Unload(const v1::UnloadRank& unload) {
  Dismiss(unload.group_epoch(), "the model was unloaded", "");
}

void RankHost::Dismiss(uint64_t epoch, const std::string& why, std::string_view cause) {
  EndGroup(epoch, why, cause);
  if (Find(epoch) != nullptr) Push({.epoch = epoch});
}

void RankHost::Drain(const v1::DrainRank& drain) {
  const std::shared_ptr<Serving> serving = Find(drain.group_epoch());
  if (serving == nullptr) return;
  {
    MutexLock lock(serving->mutex);
    if (serving->engine == nullptr) return;
    spdlog::info("group {} takes no more requests", drain.group_epoch());
    serving->engine->Drain();
    serving->draining = true;
  }
  ShowHeld(serving->load.model_id());
}

void RankHost::Push(const Command& command) {
  MutexLock lock(mutex_);
  commands_.push_back(command);
  changed_.NotifyAll();
}

std::shared_ptr<RankHost::Serving> RankHost::Find(uint64_t epoch) const {
  MutexLock lock(mutex_);
  if (epoch == 0) return servings_.size() == 1 ? servings_.begin()->second : nullptr;
  const auto found = servings_.find(epoch);
  return found == servings_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<RankHost::Serving>> RankHost::All() const {
  MutexLock lock(mutex_);
  std::vector<std::shared_ptr<Serving>> all;
  for (const auto& [epoch, serving] : servings_) all.push_back(serving);
  return all;
}

void RankHost::EndGroup(uint64_t epoch, const std::string& why, std::string_view cause) {
  rendezvous_.Abort(epoch);
  const auto serving = Find(epoch);
  if (serving == nullptr || !serving->End(why) || cause.empty()) return;
  metrics_->Add(metric::kCollectiveAborts, 1, {cause});
}

void RankHost::WorkLoop(const std::stop_token& stop) {
  const FpEnv environment;
  while (!stop.stop_requested()) {
    std::optional<Command> next;
    {
      MutexLock lock(mutex_);
      if (commands_.empty()) {
        changed_.WaitFor(mutex_, kIdle);
      } else {
        next = commands_.front();
        commands_.pop_front();
      }
    }
    next.has_value() ? Obey(*next) : Idle();
  }
}

void RankHost::Idle() {
  EndOrphans();
  ReportDrained();
  for (const auto& serving : All()) {
    Show(*serving);
    ShowCosts(*serving);
  }
}

void RankHost::Obey(const Command& command) {
  if (command.kind == Command::Kind::kTakeApart) return TakeApart(command.epoch);
  std::shared_ptr<Serving> serving = Find(command.epoch);
  if (serving == nullptr) return;
  const absl::Status status = Assemble(serving);
  const uint32_t rank = serving->load.rank();
  serving.reset();  // TakeApart waits for the last holder
  if (status.ok()) return Report(command.epoch, rank, v1::RANK_READY, status);
  spdlog::error("rank {} of group {} failed: {}", rank, command.epoch,
                std::string(status.message()));
  EndGroup(command.epoch, std::string(status.message()), "load");
  TakeApart(command.epoch);
  Report(command.epoch, rank, v1::RANK_FAILED, status);
}

void RankHost::ReportDrained() {
  for (const std::shared_ptr<Serving>& serving : All()) {
    {
      MutexLock lock(serving->mutex);
      if (!serving->draining || serving->over) continue;
      if (serving->engine->figures().calls > 0) continue;
      serving->draining = false;
    }
    Report(serving->load.group_epoch(), serving->load.rank(), v1::RANK_DRAINED, absl::OkStatus());
  }
}

void RankHost::TakeApart(uint64_t epoch) {
  std::shared_ptr<Serving> last;
  {
    MutexLock lock(mutex_);
    const auto found = servings_.find(epoch);
    if (found == servings_.end()) return;
    last = std::move(found->second);
    servings_.erase(found);
  }
  const uint32_t rank = last->load.rank();
  const std::string model = last->load.model_id();
  const std::weak_ptr<Serving> gone = last;
  ShowCosts(*last);
  last.reset();  // outside the lock: the engine's thread may need it to end
  const auto until = std::chrono::steady_clock::now() + kReleaseTimeout;
  while (!gone.expired() && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(milliseconds(2));
  }
  ShowHeld(model);
  spdlog::info("rank {} of group {} is unloaded", rank, epoch);
  Report(epoch, rank, v1::RANK_UNLOADED, absl::OkStatus());
}

absl::Status RankHost::Assemble(const std::shared_ptr<Serving>& serving) {
  const v1::LoadRank& load = serving->load;
  spdlog::info("loading rank {} of {} of {} (group {})", load.rank(), load.plan().rank_count(),
               load.model_dir(), load.group_epoch());
  ShowHeld(load.model_id());
  OCTAVO_RETURN_IF_ERROR(Join(*serving));
  OCTAVO_ASSIGN_OR_RETURN(serving->model, options_.load(load, serving->communicator.get()));
  if (load.rank() == 0) {
    Lead(serving);
  } else {
    serving->follower = std::make_unique<Follower>(
        load.group_epoch(), [this, raw = serving.get()](const v1::Step& step) {
          return TimedRun(*raw, step).status();
        });
  }
  {
    MutexLock lock(serving->mutex);
    if (serving->over) return MakeError(Reason::kGroupLost, serving->why);
    serving->ready = true;
  }
  ShowHeld(load.model_id());
  return absl::OkStatus();
}

absl::Status RankHost::Join(Serving& serving) {
  const v1::LoadRank& load = serving.load;
  {
    MutexLock lock(serving.mutex);
    if (serving.over) return MakeError(Reason::kGroupLost, serving.why);
  }
  OCTAVO_ASSIGN_OR_RETURN(std::unique_ptr<Communicator> communicator,
                          MakeProcessGroup({.rank = static_cast<int>(load.rank()),
                                            .size = static_cast<int>(load.plan().rank_count()),
                                            .host = options_.host,
                                            .collectives = options_.collectives},
                                           rendezvous_.ForGroup(load.group_epoch())));
  MutexLock lock(serving.mutex);
  if (serving.over) return MakeError(Reason::kGroupLost, serving.why);
  serving.communicator =
      std::make_unique<MeteredGroup>(std::move(communicator), metric::kCollectiveBuckets);
  return absl::OkStatus();
}

void RankHost::Lead(const std::shared_ptr<Serving>& serving) {
  const v1::LoadRank& load = serving->load;
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
                    .collect =
                        [this, raw, collect = link.collect](uint64_t index) {
                          auto done = collect(index);
                          if (done.ok()) ShowSkew(*raw, *done);
                          return done;
                        },
                    .broken =
                        [this, raw, epoch](const absl::Status& why) {
                          CountBroken(why, raw->End(std::string(why.message())));
                          Report(epoch, 0, v1::RANK_FAILED, why);
                        }},
      Clock::System());
  MutexLock lock(serving->mutex);
  serving->link = std::move(link);
  serving->engine = std::move(engine);
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

absl::StatusOr<std::shared_ptr<Engine>> RankHost::engine(uint64_t epoch) const {
  if (const std::shared_ptr<Serving> serving = Find(epoch); serving != nullptr) {
    MutexLock lock(serving->mutex);
    if (serving->ready && serving->engine != nullptr) {
      return std::shared_ptr<Engine>(serving, serving->engine.get());
    }
  }
  return MakeError(Reason::kNotReady, "this worker does not lead the group that was asked for");
}

v1::StepDone RankHost::Follow(const v1::Step& step) {
  const FpEnv environment;
  const std::shared_ptr<Serving> present = Find(step.group_epoch());
  absl::Status refused;
  if (present == nullptr) {
    refused = MakeError(Reason::kFenced,
                        fmt::format("this worker is not in group epoch {}", step.group_epoch()));
  } else {
    MutexLock lock(present->mutex);
    if (!present->ready || present->follower == nullptr) {
      refused = MakeError(Reason::kNotReady, "this rank is not a loaded follower");
    }
  }
  v1::StepDone done;
  if (refused.ok()) {
    done = present->follower->Execute(step);
    done.set_waited_nanos(present->waited_nanos);
    return done;
  }
  done.set_index(step.index());
  done.mutable_failure()->set_reason(std::string(InfoOf(ReasonOf(refused)).name));
  done.mutable_failure()->set_message(std::string(refused.message()));
  return done;
}

absl::StatusOr<RankHost::Model> RankHost::model(uint64_t epoch) const {
  const std::shared_ptr<Serving> present = Find(epoch);
  if (present == nullptr) return MakeError(Reason::kNotReady, "this worker serves no such model");
  return Model{.id = present->load.model_id(), .dir = present->load.model_dir()};
}

}  // namespace octavo
