#pragma once

// Two threads for the steps that wait for disks: opening checkpoints, planning, staging,
// publishing. Decisions never wait for them.

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "core/base/mutex.h"

namespace octavo {

class SlowLane {
 public:
  static constexpr size_t kQueueMax = 256;

  SlowLane();
  ~SlowLane() { Stop(); }

  // Drops what waits, waits for what runs. Post is refused from then on.
  void Stop();

  // False if too much is waiting, or after Stop.
  bool Post(std::function<void()> work);

 private:
  void Loop();

  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<void()>> queue_ OCTAVO_GUARDED_BY(mutex_);
  bool stopping_ OCTAVO_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace octavo
