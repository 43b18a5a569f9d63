// What a coordinator that starts anew makes of the models in its journal: a group whose ranks went
// on without a coordinator is taken over as it is, with its epoch, when all of them have said so.

#include "coordinator/control/group_desk.h"
#include "coordinator/control/group_journal.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/status.h"

namespace octavo {

absl::Status GroupDesk::Recover() {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<LoadedModel> models, LoadModels(*parts_.store));
  for (const LoadedModel& model : models) {
    Group& group = Begin(model.request, Role::kPresent);
    // Whoever asked for it is gone: it waits for workers like a group that lost some.
    group.served = true;
    spdlog::info("model {}: loaded before this coordinator started", model.request.model_id());
    if (!model.group.has_value()) {
      SetState(group, kReforming);
      continue;
    }
    const uint64_t load = group.info.load();
    group.info = *model.group;
    group.info.set_load(load);
    group.workers.assign(model.group->worker_ids().begin(), model.group->worker_ids().end());
    group.ready.assign(group.workers.size(), false);
    group.formed = true;
    group.formed_at = parts_.clock->Now();
    SetState(group, kRecovering);
  }
  return RecoverBeside();
}

absl::Status GroupDesk::RecoverBeside() {
  OCTAVO_ASSIGN_OR_RETURN(const auto successors, LoadSuccessors(*parts_.store));
  for (const v1::LoadModelRequest& request : successors) {
    SetState(Begin(request, Role::kSuccessor), kLoading);
  }
  OCTAVO_ASSIGN_OR_RETURN(const auto leaving, LoadLeaving(*parts_.store));
  for (const v1::ModelInfo& info : leaving) {
    Group& group = Begin({}, Role::kLeaving);
    const uint64_t load = group.info.load();
    group.info = info;
    group.info.set_load(load);
    group.workers.assign(info.worker_ids().begin(), info.worker_ids().end());
    group.ready.assign(group.workers.size(), false);
    group.formed = true;
    group.formed_at = group.leaving_at = parts_.clock->Now();
    SetState(group, kDraining);
  }
  return absl::OkStatus();
}

void GroupDesk::GiveUpRecovering(Group& group) {
  if (parts_.clock->Now() - group.formed_at <= kRecoverWait) return;
  Break(group, MakeError(Reason::kGroupLost, "not all ranks came back to a new coordinator"),
        "recovery", true);
}

void GroupDesk::Fence(const std::string& worker, const v1::RankReport& report) {
  if (report.state() != v1::RANK_READY) return;
  v1::Directive directive;
  directive.mutable_abort()->set_group_epoch(report.group_epoch());
  directive.mutable_abort()->set_why("another group has taken its place");
  Tell(worker, std::move(directive));
}

void GroupDesk::ShareWorkers() {
  std::vector<std::string> addresses;
  for (const std::string& worker : parts_.members->Ready()) {
    addresses.push_back(parts_.members->Find(worker)->hello.engine_address());
  }
  parts_.models->SetWorkers(std::move(addresses));
}

}  // namespace octavo
