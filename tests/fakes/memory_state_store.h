#pragma once

// The StateStore in memory: survives the Control that used it, as a disk survives a crash.

#include <map>

#include "coordinator/state/state_store.h"
#include "core/base/error.h"
#include "core/base/mutex.h"

namespace octavo {

class MemoryStateStore final : public StateStore {
 public:
  absl::Status Apply(std::span<const Write> writes) override {
    MutexLock lock(mutex_);
    if (broken_) return MakeError(Reason::kDiskFull, "the journal's disk is full");
    for (const Write& write : writes) {
      if (write.value) {
        entries_[write.key] = *write.value;
      } else {
        entries_.erase(write.key);
      }
    }
    return absl::OkStatus();
  }
  absl::StatusOr<std::optional<std::string>> Get(const std::string& key) override {
    MutexLock lock(mutex_);
    const auto found = entries_.find(key);
    if (found == entries_.end()) return std::nullopt;
    return found->second;
  }
  absl::StatusOr<std::vector<Entry>> Scan(const std::string& prefix) override {
    MutexLock lock(mutex_);
    std::vector<Entry> out;
    for (auto i = entries_.lower_bound(prefix); i != entries_.end(); ++i) {
      if (!i->first.starts_with(prefix)) break;
      out.push_back({i->first, i->second});
    }
    return out;
  }
  // From now on every Apply fails.
  void Break() {
    MutexLock lock(mutex_);
    broken_ = true;
  }

 private:
  Mutex mutex_;
  std::map<std::string, std::string> entries_ OCTAVO_GUARDED_BY(mutex_);
  bool broken_ OCTAVO_GUARDED_BY(mutex_) = false;
};

}  // namespace octavo
