// How one group takes another's place: a new version of a model, or the same one on other workers.

#include <algorithm>

#include "coordinator/control/group_desk.h"
#include "coordinator/control/group_journal.h"
#include "core/base/log.h"

namespace octavo {

void GroupDesk::TakePlace(Group& successor, const std::string& state) {
  const std::string& id = successor.info.model_id();
  Group* const old = PresentOf(id);
  const bool serves = old != nullptr && old->formed &&
                      (old->info.state() == kReady || old->info.state() == kRecovering);
  if (serves) Leave(*old);
  successor.role = Role::kPresent;
  successor.info.set_successor(false);
  successor.served = true;
  successor.failures = 0;
  parts_.outbox->writes.push_back(PutModel(successor.request));
  parts_.outbox->writes.push_back(EraseSuccessor(id));
  SetState(successor, state);  // the router's entry of that name: there is no time between
  if (old != nullptr && !serves) {
    old->role = Role::kLeaving;  // the name, in router and journal, is the successor's by now
    Erase(*old);
  }
  ShareBeside();
}

void GroupDesk::Leave(Group& group) {
  spdlog::info("model {}: epoch {} gives its place up", group.info.model_id(),
               group.info.group_epoch());
  group.role = Role::kLeaving;
  group.leaving_at = parts_.clock->Now();
  parts_.outbox->writes.push_back(EraseGroup(group.info.model_id()));
  SetState(group, kDraining);
  parts_.outbox->writes.push_back(PutLeaving(group.info));
  TellToDrain(group);
}

void GroupDesk::TellToDrain(const Group& group) {
  if (group.workers.empty()) return;
  v1::Directive directive;
  directive.mutable_drain()->set_group_epoch(group.info.group_epoch());
  Tell(group.workers.front(), std::move(directive));
}

void GroupDesk::MoveOffDraining() {
  std::vector<v1::LoadModelRequest> moving;
  for (const auto& [load, group] : groups_) {
    const bool stays = std::ranges::none_of(
        group.workers, [&](const std::string& worker) { return parts_.members->draining(worker); });
    if (stays || group.role != Role::kPresent || !group.formed) continue;
    if (SuccessorOf(group.info.model_id()) == nullptr) moving.push_back(group.request);
  }
  for (const v1::LoadModelRequest& request : moving) {
    spdlog::info("model {} moves to other workers", request.model_id());
    Group& group = Begin(request, Role::kSuccessor);
    group.relieves = true;
    SetState(group, kLoading);
    parts_.outbox->writes.push_back(PutSuccessor(request));
  }
}

}  // namespace octavo
