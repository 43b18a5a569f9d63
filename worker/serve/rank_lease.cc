// What becomes of a rank when its worker attaches to a coordinator and when it loses it.

#include "core/base/log.h"
#include "worker/serve/serving_rank.h"

namespace octavo {

void RankHost::Attached() {
  rendezvous_.Reset();
  std::shared_ptr<Serving> present;
  {
    MutexLock lock(mutex_);
    ended_epoch_ = 0;
    orphan_end_.reset();
    present = serving_;
  }
  if (present == nullptr) return;
  absl::Status status;
  {
    MutexLock lock(present->mutex);
    if (!present->ready) return;
    if (present->over) status = MakeError(Reason::kGroupLost, present->why);
  }
  const uint64_t epoch = present->load.group_epoch();
  Report(epoch, present->load.rank(), status.ok() ? v1::RANK_READY : v1::RANK_FAILED, status);
  if (!status.ok()) Push(epoch, nullptr);
}

void RankHost::Orphaned() {
  const std::shared_ptr<Serving> present = serving();
  bool whole = false;
  if (present != nullptr) {
    MutexLock lock(present->mutex);
    whole = present->ready && !present->over;
  }
  if (!whole) return Detached();  // forming needs the coordinator
  spdlog::warn("group {} goes on without its coordinator for {} ms", present->load.group_epoch(),
               options_.grace.count());
  MutexLock lock(mutex_);
  ++lease_;
  commands_.clear();
  orphan_end_ = std::chrono::steady_clock::now() + options_.grace;
}

void RankHost::EndOrphan() {
  {
    MutexLock lock(mutex_);
    if (!orphan_end_.has_value() || std::chrono::steady_clock::now() < *orphan_end_) return;
    orphan_end_.reset();
  }
  spdlog::warn("the coordinator did not come back within {} ms", options_.grace.count());
  Detached();
}

void RankHost::Detached() {
  uint64_t epoch = 0;
  {
    MutexLock lock(mutex_);
    ++lease_;
    commands_.clear();
    if (serving_ != nullptr) epoch = serving_->load.group_epoch();
  }
  EndGroup(UINT64_MAX, "this worker lost its coordinator");
  Push(epoch, nullptr);
}

}  // namespace octavo
