// How a group forms: workers are chosen, the checkpoint is laid over them, every rank is told.

#include <algorithm>
#include <utility>

#include "coordinator/control/group_desk.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// What a worker's --memory leaves for ranks beside code, libraries and threads.
uint64_t RankBudget(uint64_t memory_bytes) {
  constexpr uint64_t kOverheadMax = 128u << 20;
  return memory_bytes - std::min<uint64_t>(kOverheadMax, memory_bytes / 4);
}

uint64_t LargestRank(const v1::ServePlan& plan) {
  uint64_t largest = 0;
  for (const v1::RankPlan& rank : plan.ranks()) {
    largest = std::max(largest, rank.weight_bytes() + rank.kv_bytes() + rank.scratch_bytes());
  }
  return largest;
}

}  // namespace

uint64_t GroupDesk::HeldBytes(const std::string& worker) const {
  uint64_t bytes = 0;
  for (const auto& [load, group] : groups_) {
    if (group.formed && std::ranges::count(group.workers, worker) > 0) {
      bytes += group.info.rank_bytes();
    }
  }
  return bytes;
}

GroupDesk::Place GroupDesk::PlaceFor(const Group& group) const {
  struct Candidate {
    uint64_t ranks;
    std::string worker;
    auto operator<=>(const Candidate&) const = default;
  };
  std::vector<Candidate> candidates;
  for (const std::string& worker : parts_.members->Ready()) {
    if (parts_.members->draining(worker)) continue;
    uint64_t ranks = 0;
    bool planned = false;  // for a group whose bytes are not known yet
    for (const auto& [load, other] : groups_) {
      if (std::ranges::count(other.workers, worker) == 0) continue;
      ++ranks;
      planned |= other.planning;
    }
    if (!planned) candidates.push_back({.ranks = ranks, .worker = worker});
  }
  std::ranges::sort(candidates);
  Place place{.workers = {}, .memory = UINT64_MAX, .held = 0};
  for (const Candidate& candidate : candidates) {
    if (place.workers.size() == group.request.tensor_parallel()) break;
    const uint64_t held = HeldBytes(candidate.worker);
    const uint64_t budget =
        RankBudget(parts_.members->Find(candidate.worker)->hello.memory_bytes());
    place.workers.push_back(candidate.worker);
    place.memory = std::min(place.memory, budget - std::min(held, budget));
    place.held = std::max(place.held, held);
  }
  return place;
}

void GroupDesk::TryForm(Group& group) {
  const uint32_t count = group.request.tensor_parallel();
  Place place = PlaceFor(group);
  if (place.workers.size() < count) {
    if (group.relieves && group.role == Role::kSuccessor) return TakePlace(group, kReforming);
    // A group that has served waits for ever; a new one tells whoever waits for it.
    const bool waited = parts_.clock->Now() - group.asked > kWorkersWait;
    if (group.info.state() != kLoading || !waited) return;
    Fail(group, MakeError(Reason::kNotReady,
                          fmt::format("{} workers are needed and {} are free", count,
                                      place.workers.size()),
                          {}, "Start more workers, or unload another model"));
    return;
  }
  group.workers = std::move(place.workers);
  group.planning = true;
  const bool posted = parts_.slow->Post([this, request = group.request, load = group.info.load(),
                                         memory = place.memory, held = place.held] {
    auto result = std::make_shared<absl::StatusOr<GroupPlan>>(
        PlanGroup(request.model_dir(), {.rank_count = request.tensor_parallel(),
                                        .max_model_len = request.max_model_len(),
                                        .rank_memory_bytes = std::max<uint64_t>(memory, 1),
                                        .max_batched_tokens = request.max_batched_tokens(),
                                        .max_sequences = request.max_sequences(),
                                        .cache_type = request.cache_type(),
                                        .kv_scale_one = request.kv_scale_one(),
                                        .head_type = request.head_type(),
                                        .kv_cache_tokens = request.kv_cache_tokens()}));
    parts_.post([this, load, held, result] { OnPlanned(load, held, result); });
  });
  if (posted) return;
  group.planning = false;
  group.workers.clear();
}

void GroupDesk::OnPlanned(uint64_t load, uint64_t held,
                          const std::shared_ptr<absl::StatusOr<GroupPlan>>& result) {
  const auto found = groups_.find(load);
  if (found == groups_.end()) return;
  Group& group = found->second;
  group.planning = false;
  if (!result->ok()) {
    const absl::Status& why = result->status();
    if (held == 0) return Fail(group, why);
    return Fail(group, WithContext(why, fmt::format("beside {} bytes that ranks of other groups "
                                                    "hold on the same worker",
                                                    held)));
  }
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
  group.info.set_rank_bytes(LargestRank(plan.plan));
  group.info.set_format(plan.format);
  group.info.set_family(plan.plan.model().family());
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

}  // namespace octavo
