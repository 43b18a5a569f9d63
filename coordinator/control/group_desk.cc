#include "coordinator/control/group_desk.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "coordinator/control/group_journal.h"
#include "core/base/error.h"
#include "core/base/failure.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// What a worker's --memory leaves for a rank beside code, libraries and threads.
uint64_t RankBudget(uint64_t memory_bytes) {
  constexpr uint64_t kOverheadMax = 128u << 20;
  return memory_bytes - std::min<uint64_t>(kOverheadMax, memory_bytes / 4);
}

bool WorthTryingAgain(const absl::Status& status) {
  const Reason reason = ReasonOf(status);
  return reason == Reason::kGroupLost || reason == Reason::kStateMismatch ||
         InfoOf(reason).retryable;
}

}  // namespace

absl::StatusOr<v1::ModelInfo> GroupDesk::Load(const v1::LoadModelRequest& original) {
  v1::LoadModelRequest request = original;
  if (request.model_dir().empty() || request.model_dir().front() != '/') {
    return MakeError(Reason::kBadRequest,
                     fmt::format("model_dir '{}' is not an absolute path", request.model_dir()));
  }
  std::filesystem::path dir = std::filesystem::path(request.model_dir()).lexically_normal();
  if (!dir.has_filename()) dir = dir.parent_path();
  request.set_model_dir(dir.string());
  if (request.model_id().empty()) request.set_model_id(dir.filename().string());
  if (request.tensor_parallel() == 0) request.set_tensor_parallel(1);
  if (request.tensor_parallel() > 1024 || request.max_model_len() < 0) {
    return MakeError(Reason::kBadRequest, "tensor_parallel or max_model_len is out of range");
  }
  if (request.max_batched_tokens() == 0) request.set_max_batched_tokens(kBatchedTokens);
  if (request.max_sequences() == 0) {
    request.set_max_sequences(std::min<uint32_t>(kSequencesMax, request.max_batched_tokens()));
  }
  if (!v1::CacheType_IsValid(request.cache_type()) || !v1::HeadType_IsValid(request.head_type())) {
    return MakeError(Reason::kBadRequest, "cache_type or head_type is not known");
  }
  const auto found = groups_.find(request.model_id());
  if (found != groups_.end() && found->second.info.state() != kFailed) {
    if (found->second.request.SerializeAsString() == request.SerializeAsString()) {
      return found->second.info;
    }
    return MakeError(Reason::kBusy,
                     fmt::format("model '{}' is loaded in another way", request.model_id()), {},
                     "Unload it first, or choose another model id");
  }
  if (found == groups_.end() && groups_.size() >= kModelsMax) {
    return MakeError(Reason::kQueueFull, "too many models are loaded");
  }
  Group& group = Begin(request);
  SetState(group, kLoading);
  parts_.outbox->writes.push_back(PutModel(request));
  return group.info;
}

GroupDesk::Group& GroupDesk::Begin(const v1::LoadModelRequest& request) {
  Group& group = groups_[request.model_id()];
  group = Group();
  group.request = request;
  group.generation = ++last_generation_;
  group.asked = group.next_try = parts_.clock->Now();
  group.info.set_model_id(request.model_id());
  group.info.set_model_dir(request.model_dir());
  group.info.set_tensor_parallel(request.tensor_parallel());
  return group;
}

absl::StatusOr<v1::ModelInfo> GroupDesk::Get(const std::string& model_id) const {
  const auto found = groups_.find(model_id);
  if (found == groups_.end()) {
    return MakeError(Reason::kNotFound, fmt::format("there is no model '{}'", model_id));
  }
  return found->second.info;
}

std::vector<v1::ModelInfo> GroupDesk::List() const {
  std::vector<v1::ModelInfo> models;
  for (const auto& [id, group] : groups_) models.push_back(group.info);
  return models;
}

absl::Status GroupDesk::Unload(const std::string& model_id) {
  const auto found = groups_.find(model_id);
  if (found == groups_.end()) {
    return MakeError(Reason::kNotFound, fmt::format("there is no model '{}'", model_id));
  }
  const Group& group = found->second;
  if (group.formed) {
    for (const std::string& worker : group.workers) {
      v1::Directive directive;
      directive.mutable_unload()->set_group_epoch(group.info.group_epoch());
      Tell(worker, std::move(directive));
    }
  }
  parts_.models->Remove(model_id);
  parts_.outbox->writes.push_back(EraseModel(model_id));
  parts_.outbox->writes.push_back(EraseGroup(model_id));
  groups_.erase(found);
  return absl::OkStatus();
}

void GroupDesk::Tick() {
  const Nanos now = parts_.clock->Now();
  for (auto& [id, group] : groups_) {
    const std::string& state = group.info.state();
    if (state == kReady && group.failures > 0 && now - group.ready_at > kSteady) group.failures = 0;
    if (state == kRecovering) GiveUpRecovering(group);
    if (state != kLoading && state != kReforming) continue;
    if (group.formed && now - group.formed_at > kFormTimeout) {
      Break(group, MakeError(Reason::kDeadline, "the ranks did not become ready in time"),
            "timeout", false);
    } else if (!group.formed && !group.planning && now >= group.next_try) {
      TryForm(group);
    }
  }
}

void GroupDesk::TryForm(Group& group) {
  const uint32_t count = group.request.tensor_parallel();
  std::vector<std::string> chosen;
  for (const std::string& worker : parts_.members->Ready()) {
    if (chosen.size() < count && !InGroup(worker)) chosen.push_back(worker);
  }
  if (chosen.size() < count) {
    // A group that has served waits for ever; a new one tells whoever waits for it.
    const bool waited = parts_.clock->Now() - group.asked > kWorkersWait;
    if (group.info.state() != kLoading || !waited) return;
    Fail(group,
         MakeError(Reason::kNotReady,
                   fmt::format("{} workers are needed and {} are free", count, chosen.size()), {},
                   "Start more workers, or unload another model"));
    return;
  }
  uint64_t memory = UINT64_MAX;
  for (const std::string& worker : chosen) {
    memory = std::min<uint64_t>(memory, parts_.members->Find(worker)->hello.memory_bytes());
  }
  group.workers = std::move(chosen);
  group.planning = true;
  const bool posted =
      parts_.slow->Post([this, request = group.request, generation = group.generation, memory] {
        auto result = std::make_shared<absl::StatusOr<GroupPlan>>(
            PlanGroup(request.model_dir(), {.rank_count = request.tensor_parallel(),
                                            .max_model_len = request.max_model_len(),
                                            .rank_memory_bytes = RankBudget(memory),
                                            .max_batched_tokens = request.max_batched_tokens(),
                                            .max_sequences = request.max_sequences(),
                                            .cache_type = request.cache_type(),
                                            .kv_scale_one = request.kv_scale_one(),
                                            .head_type = request.head_type()}));
        parts_.post([this, id = request.model_id(), generation, result] {
          OnPlanned(id, generation, result);
        });
      });
  if (posted) return;
  group.planning = false;
  group.workers.clear();
}

void GroupDesk::OnPlanned(const std::string& model_id, uint64_t generation,
                          const std::shared_ptr<absl::StatusOr<GroupPlan>>& result) {
  const auto found = groups_.find(model_id);
  if (found == groups_.end() || found->second.generation != generation) return;
  Group& group = found->second;
  group.planning = false;
  if (!result->ok()) return Fail(group, result->status());
  const std::vector<std::string> ready = parts_.members->Ready();
  const bool all_there =
      std::all_of(group.workers.begin(), group.workers.end(), [&](const std::string& worker) {
        return std::binary_search(ready.begin(), ready.end(), worker);
      });
  if (!all_there) {
    group.workers.clear();  // Tick chooses again
    return;
  }
  Form(group, **result);
}

void GroupDesk::Form(Group& group, const GroupPlan& plan) {
  const uint64_t epoch = parts_.next_epoch();
  group.formed = true;
  group.formed_at = parts_.clock->Now();
  group.ready.assign(group.workers.size(), false);
  group.notes = Rendezvous();
  group.info.set_group_epoch(epoch);
  group.info.set_max_model_len(plan.plan.max_model_len());
  group.info.set_max_batched_tokens(plan.plan.max_batched_tokens());
  group.info.set_max_sequences(plan.plan.max_sequences());
  group.info.set_kv_cache_tokens(int64_t{plan.plan.kv_block_count()} * kKvBlockTokens);
  group.info.set_format(plan.format);
  group.info.set_cache_type(plan.plan.cache_scales().empty() ? v1::CACHE_BF16 : v1::CACHE_FP8);
  group.info.mutable_worker_ids()->Assign(group.workers.begin(), group.workers.end());
  v1::LoadRank load;
  load.set_group_epoch(epoch);
  load.set_model_id(group.info.model_id());
  load.set_model_dir(group.info.model_dir());
  *load.mutable_plan() = plan.plan;
  for (const std::string& worker : group.workers) {
    load.add_engine_addresses(parts_.members->Find(worker)->hello.engine_address());
  }
  group.info.set_leader_address(load.engine_addresses(0));
  SetState(group, group.info.state());
  for (size_t rank = 0; rank < group.workers.size(); ++rank) {
    load.set_rank(static_cast<uint32_t>(rank));
    v1::Directive directive;
    *directive.mutable_load() = load;
    Tell(group.workers[rank], std::move(directive));
  }
  spdlog::info("model {}: forming epoch {} with {} ranks", group.info.model_id(), epoch,
               group.workers.size());
}

void GroupDesk::OnRankReport(const std::string& worker, const v1::RankReport& report) {
  Group* group = OfEpoch(report.group_epoch());
  if (group == nullptr || report.rank() >= group->workers.size() ||
      group->workers[report.rank()] != worker) {
    return Fence(worker, report);  // an epoch that is over
  }
  if (report.state() == v1::RANK_FAILED) {
    Break(*group, StatusOfFailure(report.failure()), "rank-failed", false);
    return;
  }
  if (report.state() == v1::RANK_UNLOADED) {
    Break(*group, MakeError(Reason::kGroupLost, "a rank left the group"), "rank-left", false);
    return;
  }
  if (report.state() != v1::RANK_READY) return;
  group->ready[report.rank()] = true;
  if (!std::all_of(group->ready.begin(), group->ready.end(), [](bool ready) { return ready; })) {
    return;
  }
  group->ready_at = parts_.clock->Now();
  group->served = true;
  group->info.clear_failure();
  SetState(*group, kReady);
  parts_.outbox->writes.push_back(PutGroup(group->info));
  spdlog::info("model {}: ready, epoch {}, leader {}", group->info.model_id(),
               group->info.group_epoch(), group->info.leader_address());
}

void GroupDesk::OnWorkerLost(const std::string& worker) {
  for (auto& [id, group] : groups_) {
    if (!group.formed) continue;
    const auto found = std::find(group.workers.begin(), group.workers.end(), worker);
    if (found == group.workers.end()) continue;
    Break(group,
          MakeError(Reason::kGroupLost,
                    fmt::format("rank {} of the group died", found - group.workers.begin())),
          "worker-lost", true);
  }
}

// Every rank of the epoch aborts; the group forms again or fails.
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
  parts_.outbox->writes.push_back(EraseGroup(id));
  group.formed = false;
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
  SetState(group, kFailed);
  if (!group.served) parts_.outbox->writes.push_back(EraseModel(group.info.model_id()));
}

void GroupDesk::SetState(Group& group, const std::string& state) {
  group.info.set_state(state);
  parts_.models->Put(group.info);
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

void GroupDesk::Tell(const std::string& worker, v1::Directive directive) {
  parts_.outbox->directives.emplace_back(worker, std::move(directive));
}

GroupDesk::Group* GroupDesk::OfEpoch(uint64_t epoch) {
  for (auto& [id, group] : groups_) {
    if (group.formed && group.info.group_epoch() == epoch) return &group;
  }
  return nullptr;
}

bool GroupDesk::InGroup(const std::string& worker) const {
  return std::any_of(groups_.begin(), groups_.end(), [&](const auto& entry) {
    const auto& workers = entry.second.workers;
    return std::find(workers.begin(), workers.end(), worker) != workers.end();
  });
}

void GroupDesk::Describe(v1::WorkerInfo& worker) const {
  for (const auto& [id, group] : groups_) {
    if (!group.formed) continue;
    for (size_t rank = 0; rank < group.workers.size(); ++rank) {
      if (group.workers[rank] != worker.hello().worker_id()) continue;
      worker.set_model_id(id);
      worker.set_rank(static_cast<uint32_t>(rank));
    }
  }
}

void GroupDesk::UpdateGauges() {
  std::map<std::string, int> counts;
  for (const auto& [id, group] : groups_) ++counts[group.info.state()];
  for (const char* state : {kLoading, kReady, kReforming, kRecovering, kFailed}) {
    parts_.metrics->Set(metric::kModels, counts[state], {state});
  }
}

}  // namespace octavo
