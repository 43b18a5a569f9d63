#include "core/text/ordered_tasks.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "core/base/mutex.h"

namespace octavo {

absl::Status RunTasks(size_t count, size_t threads,
                      const std::function<absl::Status(size_t)>& task) {
  std::atomic<size_t> next = 0;
  std::atomic<size_t> end = count;  // the lowest index that failed, if one did
  Mutex mutex;
  absl::Status first_error;
  auto work = [&] {
    for (size_t i = next++; i < end; i = next++) {
      absl::Status status = task(i);
      if (status.ok()) continue;
      MutexLock lock(mutex);
      if (i >= end) continue;
      end = i;
      first_error = std::move(status);
    }
  };
  {
    std::vector<std::jthread> others;
    for (size_t i = 1; i < std::min(threads, count); ++i) others.emplace_back(work);
    work();
  }
  return first_error;
}

}  // namespace octavo
