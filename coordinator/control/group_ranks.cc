// What ranks say, and what becomes of a group when one is lost.

#include <algorithm>
#include <utility>

#include "coordinator/control/group_desk.h"
#include "coordinator/control/group_journal.h"
#include "core/base/error.h"
#include "core/base/failure.h"
#include "core/base/log.h"
#include "fmt/format.h"

namespace octavo {
namespace {

bool WorthTryingAgain(const absl::Status& status) {
  const Reason reason = ReasonOf(status);
  return reason == Reason::kGroupLost || reason == Reason::kStateMismatch ||
         InfoOf(reason).retryable;
}

}  // namespace

void GroupDesk::OnRankReport(const std::string& worker, const v1::RankReport& report) {
  Group* group = OfEpoch(report.group_epoch());
  if (group == nullptr || report.rank() >= group->workers.size() ||
      group->workers[report.rank()] != worker) {
    return Fence(worker, report);  // an epoch that is over
  }
  switch (report.state()) {
    case v1::RANK_FAILED:
      return Break(*group, StatusOfFailure(report.failure()), "rank-failed", false);
    case v1::RANK_UNLOADED:
      return Break(*group, MakeError(Reason::kGroupLost, "a rank left the group"), "rank-left",
                   false);
    case v1::RANK_DRAINED:
      if (group->role != Role::kLeaving) return;
      spdlog::info("model {}: epoch {} is drained", group->info.model_id(), report.group_epoch());
      return Erase(*group);
    case v1::RANK_READY:
      group->ready[report.rank()] = true;
      if (group->AllReady()) OnReady(*group);
      return;
    default:
      return;
  }
}

void GroupDesk::OnReady(Group& group) {
  if (group.role == Role::kLeaving) return TellToDrain(group);  // to another coordinator's ranks
  group.ready_at = parts_.clock->Now();
  group.served = true;
  group.relieves = false;
  group.info.clear_failure();
  group.role == Role::kSuccessor ? TakePlace(group, kReady) : SetState(group, kReady);
  parts_.outbox->writes.push_back(PutGroup(group.info));
  spdlog::info("model {}: ready, epoch {}, leader {}", group.info.model_id(),
               group.info.group_epoch(), group.info.leader_address());
}

void GroupDesk::OnWorkerLost(const std::string& worker) {
  std::vector<std::pair<uint64_t, size_t>> hit;  // load, rank
  for (const auto& [load, group] : groups_) {
    if (!group.formed) continue;
    const auto found = std::find(group.workers.begin(), group.workers.end(), worker);
    if (found != group.workers.end()) hit.emplace_back(load, found - group.workers.begin());
  }
  for (const auto& [load, rank] : hit) {
    const auto group = groups_.find(load);
    if (group == groups_.end()) continue;
    Break(group->second,
          MakeError(Reason::kGroupLost, fmt::format("rank {} of the group died", rank)),
          "worker-lost", true);
  }
}

void GroupDesk::Break(Group& group, const absl::Status& why, const char* cause, bool worker_lost) {
  const std::string& id = group.info.model_id();
  const uint64_t epoch = group.info.group_epoch();
  spdlog::warn("model {}: epoch {} broke: {}", id, epoch, std::string(why.message()));
  for (const std::string& worker : group.workers) {
    v1::Directive directive;
    directive.mutable_abort()->set_group_epoch(epoch);
    directive.mutable_abort()->set_why(std::string(why.message()));
    Tell(worker, std::move(directive));
  }
  group.formed = false;
  if (group.role == Role::kLeaving) return Erase(group);
  if (group.role == Role::kPresent) parts_.outbox->writes.push_back(EraseGroup(id));
  group.workers.clear();
  group.info.clear_worker_ids();
  group.info.clear_leader_address();
  // A dead worker says nothing against the model; anything else does.
  if (!worker_lost) ++group.failures;
  if (group.failures >= kTriesMax || (!worker_lost && !WorthTryingAgain(why))) {
    return Fail(group, why);
  }
  parts_.metrics->Add(metric::kGroupReforms, 1, {cause});
  group.next_try = parts_.clock->Now() +
                   std::chrono::milliseconds(group.failures == 0 ? 0 : 100 << group.failures);
  SetFailure(why, group.info.mutable_failure());
  SetState(group, group.served ? kReforming : kLoading);
}

void GroupDesk::Fail(Group& group, const absl::Status& why) {
  spdlog::warn("model {} failed: {}", group.info.model_id(), std::string(why.message()));
  group.workers.clear();
  SetFailure(why, group.info.mutable_failure());
  if (group.relieves) {
    // It served elsewhere: other workers may come that hold it.
    group.next_try = parts_.clock->Now() + kReliefRetry;
    group.role == Role::kSuccessor ? TakePlace(group, kReforming) : SetState(group, kReforming);
    return;
  }
  SetState(group, kFailed);
  if (group.served) return;
  const std::string& id = group.info.model_id();
  parts_.outbox->writes.push_back(group.role == Role::kSuccessor ? EraseSuccessor(id)
                                                                 : EraseModel(id));
}

void GroupDesk::OnPut(const v1::RendezvousPut& put) {
  Group* group = OfEpoch(put.group_epoch());
  if (group == nullptr) return;
  std::vector<Rendezvous::Answer> answers;
  const absl::Status status = group->notes.Put(put, &answers);
  Answer(answers);
  if (!status.ok()) Break(*group, status, "rendezvous", false);
}

void GroupDesk::OnGet(const std::string& worker, const v1::RendezvousGet& get) {
  Group* group = OfEpoch(get.group_epoch());
  if (group == nullptr) return;
  std::vector<Rendezvous::Answer> answers;
  const absl::Status status = group->notes.Get(worker, get, &answers);
  Answer(answers);
  if (!status.ok()) Break(*group, status, "rendezvous", false);
}

void GroupDesk::Answer(const std::vector<Rendezvous::Answer>& answers) {
  for (const Rendezvous::Answer& answer : answers) {
    v1::Directive directive;
    *directive.mutable_value() = answer.value;
    Tell(answer.worker, std::move(directive));
  }
}

}  // namespace octavo
