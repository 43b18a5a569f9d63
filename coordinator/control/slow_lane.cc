#include "coordinator/control/slow_lane.h"

#include <utility>

namespace octavo {

SlowLane::SlowLane() {
  for (int i = 0; i < 2; ++i) threads_.emplace_back([this] { Loop(); });
}

void SlowLane::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    queue_.clear();
    changed_.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

bool SlowLane::Post(std::function<void()> work) {
  MutexLock lock(mutex_);
  if (stopping_ || queue_.size() >= kQueueMax) return false;
  queue_.push_back(std::move(work));
  changed_.NotifyOne();
  return true;
}

void SlowLane::Loop() {
  while (true) {
    std::function<void()> work;
    {
      MutexLock lock(mutex_);
      while (queue_.empty() && !stopping_) changed_.WaitFor(mutex_, std::chrono::seconds(1));
      if (stopping_) return;
      work = std::move(queue_.front());
      queue_.pop_front();
    }
    work();
  }
}

}  // namespace octavo
