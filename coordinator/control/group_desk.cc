#include "coordinator/control/group_desk.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "coordinator/control/group_journal.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// Fills what the client left open. kBadRequest.
absl::StatusOr<v1::LoadModelRequest> WithDefaults(const v1::LoadModelRequest& original) {
  v1::LoadModelRequest request = original;
  request.clear_replace();
  if (request.model_dir().empty() || request.model_dir().front() != '/') {
    return MakeError(Reason::kBadRequest,
                     fmt::format("model_dir '{}' is not an absolute path", request.model_dir()));
  }
  std::filesystem::path dir = std::filesystem::path(request.model_dir()).lexically_normal();
  if (!dir.has_filename()) dir = dir.parent_path();
  request.set_model_dir(dir.string());
  if (request.model_id().empty()) request.set_model_id(dir.filename().string());
  if (request.tensor_parallel() == 0) request.set_tensor_parallel(1);
  if (request.tensor_parallel() > 1024 || request.max_model_len() < 0 ||
      request.kv_cache_tokens() < 0) {
    return MakeError(Reason::kBadRequest,
                     "tensor_parallel, max_model_len or kv_cache_tokens is out of range");
  }
  if (request.max_batched_tokens() == 0) request.set_max_batched_tokens(kBatchedTokens);
  if (request.max_sequences() == 0) {
    request.set_max_sequences(std::min<uint32_t>(kSequencesMax, request.max_batched_tokens()));
  }
  if (!v1::CacheType_IsValid(request.cache_type()) || !v1::HeadType_IsValid(request.head_type())) {
    return MakeError(Reason::kBadRequest, "cache_type or head_type is not known");
  }
  return request;
}

}  // namespace

absl::StatusOr<v1::ModelInfo> GroupDesk::Load(const v1::LoadModelRequest& original) {
  OCTAVO_ASSIGN_OR_RETURN(const v1::LoadModelRequest request, WithDefaults(original));
  const std::string& id = request.model_id();
  Group* present = PresentOf(id);
  Group* successor = SuccessorOf(id);
  const auto alive = [](Group* group) {
    return group != nullptr && group->info.state() != kFailed ? group : nullptr;
  };
  const auto same = [&](const Group* group) {
    return group != nullptr && group->request.SerializeAsString() == request.SerializeAsString();
  };
  if (same(alive(successor))) return successor->info;
  if (same(alive(present)) && alive(successor) == nullptr) return present->info;
  if (alive(present) != nullptr && !original.replace()) {
    return MakeError(Reason::kBusy, fmt::format("model '{}' is loaded in another way", id), {},
                     "Ask to replace it, unload it first, or choose another model id");
  }
  if (alive(successor) != nullptr) {
    return MakeError(Reason::kBusy, fmt::format("model '{}' is being replaced already", id), {},
                     "Wait for that, or unload the model");
  }
  if (successor != nullptr) Erase(*successor);
  const bool beside = alive(present) != nullptr;
  if (present != nullptr && !beside) Erase(*present);
  if (groups_.size() >= kModelsMax) {
    return MakeError(Reason::kQueueFull, "too many models are loaded");
  }
  Group& group = Begin(request, beside ? Role::kSuccessor : Role::kPresent);
  SetState(group, kLoading);
  parts_.outbox->writes.push_back(beside ? PutSuccessor(request) : PutModel(request));
  return group.info;
}

GroupDesk::Group& GroupDesk::Begin(const v1::LoadModelRequest& request, Role role) {
  Group& group = groups_[++last_load_];
  group.role = role;
  group.request = request;
  group.asked = group.next_try = parts_.clock->Now();
  group.info.set_model_id(request.model_id());
  group.info.set_model_dir(request.model_dir());
  group.info.set_tensor_parallel(request.tensor_parallel());
  group.info.set_load(last_load_);
  group.info.set_successor(role == Role::kSuccessor);
  return group;
}

absl::StatusOr<v1::ModelInfo> GroupDesk::Get(uint64_t load) const {
  const auto found = groups_.find(load);
  if (found == groups_.end()) {
    return MakeError(Reason::kNotFound, "the model was unloaded");
  }
  return found->second.info;
}

std::vector<v1::ModelInfo> GroupDesk::List() const { return parts_.models->List(); }

absl::Status GroupDesk::Unload(const std::string& model_id) {
  std::vector<Group*> all;
  for (auto& [load, group] : groups_) {
    if (group.info.model_id() == model_id) all.push_back(&group);
  }
  if (all.empty()) {
    return MakeError(Reason::kNotFound, fmt::format("there is no model '{}'", model_id));
  }
  for (Group* group : all) Erase(*group);
  return absl::OkStatus();
}

void GroupDesk::Forget(uint64_t load) {
  const auto found = groups_.find(load);
  if (found != groups_.end()) Erase(found->second);
}

void GroupDesk::Erase(Group& group) {
  const std::string id = group.info.model_id();
  if (group.formed) {
    for (const std::string& worker : group.workers) {
      v1::Directive directive;
      directive.mutable_unload()->set_group_epoch(group.info.group_epoch());
      Tell(worker, std::move(directive));
    }
  }
  auto& writes = parts_.outbox->writes;
  switch (group.role) {
    case Role::kPresent:
      parts_.models->Remove(id);
      writes.push_back(EraseModel(id));
      writes.push_back(EraseGroup(id));
      break;
    case Role::kSuccessor:
      writes.push_back(EraseSuccessor(id));
      break;
    case Role::kLeaving:
      writes.push_back(EraseLeaving(group.info.group_epoch()));
      break;
  }
  ShowInfo(group, false);
  groups_.erase(group.info.load());
  ShareBeside();
}

void GroupDesk::Tick() {
  MoveOffDraining();
  std::vector<uint64_t> loads;
  for (const auto& [load, group] : groups_) loads.push_back(load);
  for (const uint64_t load : loads) {
    const auto found = groups_.find(load);
    if (found != groups_.end()) TickGroup(found->second);
  }
}

void GroupDesk::TickGroup(Group& group) {
  const Nanos now = parts_.clock->Now();
  const std::string& state = group.info.state();
  if (state == kReady && group.failures > 0 && now - group.ready_at > kSteady) group.failures = 0;
  if (state == kDraining && now - group.leaving_at > kDrainMax) {
    spdlog::warn("model {}: epoch {} still had requests after {} s", group.info.model_id(),
                 group.info.group_epoch(), kDrainMax.count());
    return Erase(group);
  }
  // One that drains and is not ready was left by an earlier coordinator.
  if (state == kRecovering || (state == kDraining && !group.AllReady())) {
    return GiveUpRecovering(group);
  }
  if (state != kLoading && state != kReforming) return;
  if (group.formed && now - group.formed_at > kFormTimeout) {
    Break(group, MakeError(Reason::kDeadline, "the ranks did not become ready in time"), "timeout",
          false);
  } else if (!group.formed && !group.planning && now >= group.next_try) {
    TryForm(group);
  }
}

void GroupDesk::SetState(Group& group, const std::string& state) {
  group.info.set_state(state);
  Publish(group);
}

void GroupDesk::Publish(const Group& group) {
  if (group.role == Role::kPresent) {
    parts_.models->Put(group.info);
  } else {
    ShareBeside();
  }
}

void GroupDesk::ShareBeside() {
  std::vector<v1::ModelInfo> beside;
  for (const auto& [load, group] : groups_) {
    if (group.role != Role::kPresent) beside.push_back(group.info);
  }
  parts_.models->SetBeside(std::move(beside));
}

GroupDesk::Group* GroupDesk::PresentOf(const std::string& model_id) {
  for (auto& [load, group] : groups_) {
    if (group.role == Role::kPresent && group.info.model_id() == model_id) return &group;
  }
  return nullptr;
}

GroupDesk::Group* GroupDesk::SuccessorOf(const std::string& model_id) {
  for (auto& [load, group] : groups_) {
    if (group.role == Role::kSuccessor && group.info.model_id() == model_id) return &group;
  }
  return nullptr;
}

GroupDesk::Group* GroupDesk::OfEpoch(uint64_t epoch) {
  for (auto& [load, group] : groups_) {
    if (group.formed && group.info.group_epoch() == epoch) return &group;
  }
  return nullptr;
}

void GroupDesk::Tell(const std::string& worker, v1::Directive directive) {
  parts_.outbox->directives.emplace_back(worker, std::move(directive));
}

void GroupDesk::Describe(v1::WorkerInfo& worker) const {
  for (const auto& [load, group] : groups_) {
    if (!group.formed) continue;
    for (size_t rank = 0; rank < group.workers.size(); ++rank) {
      if (group.workers[rank] != worker.hello().worker_id()) continue;
      v1::HeldRank& held = *worker.add_ranks();
      held.set_model_id(group.info.model_id());
      held.set_rank(static_cast<uint32_t>(rank));
      held.set_group_epoch(group.info.group_epoch());
      held.set_bytes(group.info.rank_bytes());
    }
  }
}

void GroupDesk::ShowInfo(const Group& group, bool there) {
  const v1::ModelInfo& info = group.info;
  if (info.format().empty()) return;  // nothing is known of it yet
  parts_.metrics->Set(metric::kModelInfo, there ? 1 : 0,
                      {info.model_id(), info.family(), info.format()});
}

void GroupDesk::UpdateGauges() {
  std::map<std::string, int> counts;
  for (const auto& [load, group] : groups_) ++counts[group.info.state()];
  for (const char* state : {kLoading, kReady, kReforming, kRecovering, kDraining, kFailed}) {
    parts_.metrics->Set(metric::kModels, counts[state], {state});
  }
  // Two groups of one model may differ in this alone.
  for (const bool there : {false, true}) {
    for (const auto& [load, group] : groups_) {
      if (group.formed == there) ShowInfo(group, there);
    }
  }
}

}  // namespace octavo
