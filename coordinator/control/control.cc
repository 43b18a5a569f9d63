#include "coordinator/control/control.h"

#include <algorithm>
#include <utility>

#include "coordinator/control/group_journal.h"
#include "coordinator/control/job_journal.h"
#include "core/base/error.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "core/base/status.h"

namespace octavo {
namespace {

// Leases are looked at this often even when nothing is said.
constexpr std::chrono::milliseconds kTick{50};

}  // namespace

Control::Control(const ControlOptions& options, StateStore* store, ModelTable* models,
                 Metrics* metrics)
    : options_(options),
      store_(store),
      metrics_(metrics),
      members_(std::chrono::milliseconds(options.lease_ms)),
      slow_(std::make_unique<SlowLane>()) {
  auto post = [this](std::function<void()> event) { Post(std::move(event)); };
  jobs_ = std::make_unique<JobDesk>(JobDesk::Parts{.store = store,
                                                   .metrics = metrics,
                                                   .clock = options.clock,
                                                   .members = &members_,
                                                   .slow = slow_.get(),
                                                   .outbox = &outbox_,
                                                   .post = post});
  groups_ =
      std::make_unique<GroupDesk>(GroupDesk::Parts{.members = &members_,
                                                   .models = models,
                                                   .metrics = metrics,
                                                   .clock = options.clock,
                                                   .slow = slow_.get(),
                                                   .outbox = &outbox_,
                                                   .store = store,
                                                   .post = post,
                                                   .next_epoch = [this] { return NextEpoch(); }});
}

absl::StatusOr<std::unique_ptr<Control>> Control::Start(const ControlOptions& options,
                                                        StateStore* store, ModelTable* models,
                                                        Metrics* metrics) {
  std::unique_ptr<Control> control(new Control(options, store, models, metrics));
  const Clock::Nanos begin = options.clock->Now();
  OCTAVO_ASSIGN_OR_RETURN(control->incarnation_, NextIncarnation(*store));
  {
    MutexLock lock(control->mutex_);
    OCTAVO_RETURN_IF_ERROR(control->jobs_->Recover());
    OCTAVO_RETURN_IF_ERROR(control->groups_->Recover());
    OCTAVO_ASSIGN_OR_RETURN(const std::vector<std::string> draining, LoadDraining(*store));
    for (const std::string& worker : draining) control->members_.SetDraining(worker, true);
    control->UpdateGauges();
  }
  metrics->Add(metric::kRecoveries, static_cast<double>(control->incarnation_ - 1));
  metrics->Set(metric::kRecoverySeconds, Seconds(options.clock->Now() - begin));
  if (options.own_thread) {
    Control* self = control.get();
    control->thread_ = std::thread([self] { self->Loop(); });
  }
  return control;
}

Control::~Control() {
  {
    MutexLock lock(queue_mutex_);
    stopping_ = true;
    queued_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
  Round();  // what came last is journaled
  slow_->Stop();
  Round();  // so is what the last slow steps found
  MutexLock lock(mutex_);
  for (auto& [id, worker] : attached_) {
    worker.client->Close(MakeError(Reason::kUnreachable, "the coordinator stops"));
  }
}

void Control::Loop() {
  while (true) {
    {
      MutexLock lock(queue_mutex_);
      if (queue_.empty() && !stopping_) queued_.WaitFor(queue_mutex_, kTick);
      if (stopping_) return;
    }
    Round();
  }
}

void Control::Post(std::function<void()> event) {
  MutexLock lock(queue_mutex_);
  queue_.push_back(std::move(event));
  queued_.NotifyOne();
}

void Control::Round() {
  MutexLock lock(mutex_);
  // The time comes before the events: a beat that is still queued must not count as missing.
  const Clock::Nanos now = options_.clock->Now();
  std::deque<std::function<void()>> events;
  {
    MutexLock queue_lock(queue_mutex_);
    events.swap(queue_);
  }
  for (const std::function<void()>& event : events) event();
  for (const std::string& worker : members_.Expire(now)) {
    Lose(worker, "lease", MakeError(Reason::kFenced, "no beat came for the lease time"));
  }
  groups_->Tick();
  Dispatch();
  Flush().IgnoreError();
  UpdateGauges();
}

// Upper half: which opening of the journal; so epochs never repeat, though leases are not waited
// for.
uint64_t Control::NextEpoch() { return (incarnation_ << 40) + ++last_epoch_; }

absl::StatusOr<uint64_t> Control::Join(const v1::Hello& hello,
                                       std::shared_ptr<WorkerClient> client) {
  if (hello.worker_id().empty() || hello.worker_id().size() > 128) {
    return MakeError(Reason::kBadRequest, "a Hello needs a worker_id of at most 128 bytes");
  }
  MutexLock lock(mutex_);
  const std::string& id = hello.worker_id();
  if (attached_.contains(id)) {
    Lose(id, "rejoin", MakeError(Reason::kFenced, "the worker attached again"));
  }
  const uint64_t session = members_.Join(hello, options_.clock->Now());
  if (session == 0) {
    return MakeError(Reason::kFenced,
                     "this worker is in quarantine: " + members_.Find(id)->quarantine_why);
  }
  v1::Directive welcome;
  welcome.mutable_welcome()->set_beat_ms(options_.beat_ms);
  welcome.mutable_welcome()->set_lease_ms(options_.lease_ms);
  client->Send(welcome);
  attached_[id] = Attached{.session = session, .client = std::move(client)};
  groups_->ShareWorkers();
  spdlog::info("worker {} joined from {}", id, hello.engine_address());
  Flush().IgnoreError();  // jobs and groups were told
  Post([] {});            // groups may wait for it
  return session;
}

void Control::OnReport(uint64_t session, v1::Report report) {
  const Clock::Nanos arrived = options_.clock->Now();
  {
    MutexLock lock(queue_mutex_);
    if (queue_.size() < kQueueMax) {
      queue_.push_back([this, session, arrived, report = std::move(report)] {
        HandleReport(session, report, arrived);
      });
      queued_.NotifyOne();
      return;
    }
  }
  Leave(session);  // far behind: without its reports the worker is no use
}

void Control::Leave(uint64_t session) {
  Post([this, session] {
    const Membership::Member* member = members_.OfSession(session);
    if (member == nullptr) return;
    const std::string worker = member->hello.worker_id();
    members_.Leave(session);
    Lose(worker, "stream", MakeError(Reason::kFenced, "the stream ended"));
  });
}

void Control::HandleReport(uint64_t session, const v1::Report& report, Clock::Nanos arrived) {
  const Membership::Member* member = members_.OfSession(session);
  if (member == nullptr) return;
  const std::string worker = member->hello.worker_id();
  Attached& attached = attached_[worker];
  // Whatever it says proves that it lives.
  members_.Beat(session, arrived, report.has_beat() ? report.beat().rss_peak_bytes() : 0);
  switch (report.kind_case()) {
    case v1::Report::kWant:
      attached.credits =
          std::min(kCreditsMax, attached.credits + std::min(kCreditsMax, report.want().count()));
      return;
    case v1::Report::kReceipt: {
      ++attached.units_done;
      const auto quarantine = jobs_->OnReceipt(worker, report.receipt());
      if (quarantine) Quarantine(worker, *quarantine);
      return;
    }
    case v1::Report::kTaskFailed:
      return jobs_->OnTaskFailed(worker, report.task_failed());
    case v1::Report::kRank:
      return groups_->OnRankReport(worker, report.rank());
    case v1::Report::kPut:
      return groups_->OnPut(report.put());
    case v1::Report::kGet:
      return groups_->OnGet(worker, report.get());
    case v1::Report::kBeat: {
      if (report.beat().sent_nanos() == 0) return;
      v1::Directive echo;
      echo.mutable_echo()->set_sent_nanos(report.beat().sent_nanos());
      attached.client->Send(echo);
      return;
    }
    case v1::Report::kHello:
    case v1::Report::KIND_NOT_SET:
      return;
  }
}

void Control::Lose(const std::string& worker, const char* cause, const absl::Status& why) {
  const auto found = attached_.find(worker);
  if (found == attached_.end()) return;
  spdlog::warn("worker {} is lost: {}", worker, std::string(why.message()));
  metrics_->Add(metric::kWorkersLost, 1, {cause});
  found->second.client->Close(why);
  attached_.erase(found);
  jobs_->OnWorkerLost(worker);
  groups_->OnWorkerLost(worker);
  groups_->ShareWorkers();
}

void Control::Quarantine(const std::string& worker, const std::string& why) {
  spdlog::error("worker {} is in quarantine: {}", worker, why);
  members_.Quarantine(worker, why);
  Lose(worker, "quarantine", MakeError(Reason::kCorrupted, why));
}

// One task for each worker in turn, so that neighbouring units go to different workers.
void Control::Dispatch() {
  bool more = true;
  while (more) {
    more = false;
    for (auto& [id, worker] : attached_) {
      if (worker.credits == 0 || members_.draining(id)) continue;
      std::optional<v1::Task> task = jobs_->NextTask(id, NextEpoch());
      if (!task) return;
      --worker.credits;
      more = true;
      v1::Directive directive;
      *directive.mutable_task() = *std::move(task);
      outbox_.directives.emplace_back(id, std::move(directive));
    }
  }
}

absl::Status Control::Flush() {
  absl::Status status;
  if (!outbox_.writes.empty()) {
    const Clock::Nanos begin = options_.clock->Now();
    status = store_->Apply(outbox_.writes);
    metrics_->Observe(metric::kStoreSeconds, Seconds(options_.clock->Now() - begin));
    if (!status.ok()) {
      // Tasks whose leases are not durable are not sent; groups do without the journal.
      std::erase_if(outbox_.directives, [](const auto& entry) { return entry.second.has_task(); });
      outbox_.leased = false;
      jobs_->FailAll(status);
    }
    outbox_.writes.clear();
  }
  if (outbox_.leased) FaultPoint("leased-out");
  for (const auto& [id, directive] : outbox_.directives) {
    const auto found = attached_.find(id);
    if (found != attached_.end()) found->second.client->Send(directive);
  }
  outbox_ = Outbox();
  return status;
}

void Control::UpdateGauges() {
  std::map<WorkerState, int> counts;
  for (const auto& [id, member] : members_.members()) ++counts[member.state];
  for (const WorkerState state :
       {WorkerState::kReady, WorkerState::kLost, WorkerState::kQuarantined}) {
    metrics_->Set(metric::kWorkers, counts[state], {NameOf(state)});
  }
  Clock::Nanos oldest = options_.clock->Now();
  const Clock::Nanos now = oldest;
  for (const auto& [id, worker] : attached_) {
    oldest = std::min(oldest, members_.Find(id)->last_beat);
  }
  metrics_->Set(metric::kHeartbeatAge, Seconds(now - oldest));
  jobs_->UpdateGauges();
  groups_->UpdateGauges();
}

}  // namespace octavo
