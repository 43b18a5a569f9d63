#pragma once

// std::mutex with clang's thread-safety annotations. (Debian's absl::Mutex is not instrumented:
// TSan reports false races.)

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define OCTAVO_THREAD_ATTRIBUTE_(x) __attribute__((x))
#else
#define OCTAVO_THREAD_ATTRIBUTE_(x)
#endif

// Marks a member that may only be touched while `mutex` is held.
#define OCTAVO_GUARDED_BY(mutex) OCTAVO_THREAD_ATTRIBUTE_(guarded_by(mutex))

namespace octavo {

class OCTAVO_THREAD_ATTRIBUTE_(capability("mutex")) Mutex {
 public:
  void Lock() OCTAVO_THREAD_ATTRIBUTE_(acquire_capability()) { mutex_.lock(); }
  void Unlock() OCTAVO_THREAD_ATTRIBUTE_(release_capability()) { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

// Holds a Mutex for a scope.
class OCTAVO_THREAD_ATTRIBUTE_(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) OCTAVO_THREAD_ATTRIBUTE_(acquire_capability(mutex))
      : mutex_(mutex) {
    mutex_.Lock();
  }
  ~MutexLock() OCTAVO_THREAD_ATTRIBUTE_(release_capability()) { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits are always in a loop over the condition, in the caller, where the analysis sees the guarded
// members.
class CondVar {
 public:
  // REQUIRES: `mutex` held; it is held again on return.
  void Wait(Mutex& mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // As Wait; false when `timeout` passed first.
  bool WaitFor(Mutex& mutex, std::chrono::nanoseconds timeout) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    const auto result = condition_.wait_for(lock, timeout);
    lock.release();
    return result == std::cv_status::no_timeout;
  }
  void NotifyOne() { condition_.notify_one(); }
  void NotifyAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace octavo
