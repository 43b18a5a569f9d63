// What becomes of ranks when their worker attaches to a coordinator and when it loses it.

#include "core/base/log.h"
#include "worker/serve/serving_rank.h"

namespace octavo {

void RankHost::Attached() {
  rendezvous_.Reset();
  {
    MutexLock lock(mutex_);
    orphan_end_.reset();
  }
  for (const auto& serving : All()) {
    absl::Status status;
    {
      MutexLock lock(serving->mutex);
      if (!serving->ready) continue;
      if (serving->over) status = MakeError(Reason::kGroupLost, serving->why);
    }
    const uint64_t epoch = serving->load.group_epoch();
    Report(epoch, serving->load.rank(), status.ok() ? v1::RANK_READY : v1::RANK_FAILED, status);
    if (!status.ok()) Push({.epoch = epoch});
  }
}

void RankHost::Orphaned() {
  bool serves = false;
  for (const auto& serving : All()) {
    const uint64_t epoch = serving->load.group_epoch();
    bool whole = false;
    {
      MutexLock lock(serving->mutex);
      whole = serving->ready && !serving->over;
    }
    serves |= whole;
    if (whole) {
      spdlog::warn("group {} goes on without its coordinator for {} ms", epoch,
                   options_.grace.count());
    } else {
      // Forming needs the coordinator.
      Dismiss(epoch, "this worker lost its coordinator", "coordinator-lost");
    }
  }
  if (!serves) return;
  MutexLock lock(mutex_);
  orphan_end_ = std::chrono::steady_clock::now() + options_.grace;
}

void RankHost::EndOrphans() {
  {
    MutexLock lock(mutex_);
    if (!orphan_end_.has_value() || std::chrono::steady_clock::now() < *orphan_end_) return;
    orphan_end_.reset();
  }
  spdlog::warn("the coordinator did not come back within {} ms", options_.grace.count());
  Detached();
}

void RankHost::Detached() {
  for (const auto& serving : All()) {
    Dismiss(serving->load.group_epoch(), "this worker lost its coordinator", "coordinator-lost");
  }
}

}  // namespace octavo
