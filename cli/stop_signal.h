#pragma once

// Ctrl-C and SIGTERM as an event that commands ask about. Made before any other thread, so that
// every thread leaves the signals to this one. A second signal ends the process at once (its
// children follow: their life line ends).

#include <atomic>
#include <chrono>
#include <functional>
#include <stop_token>
#include <thread>

namespace octavo {

class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  bool requested() const { return source_.stop_requested(); }
  // Fires at the first signal: std::stop_callback over it wakes what is blocked.
  std::stop_token token() const { return source_.get_token(); }
  // Sleeps; true as soon as a signal came.
  bool WaitFor(std::chrono::milliseconds time) const;

 private:
  void Watch(std::stop_token stop);

  int fd_ = -1;
  std::stop_source source_;
  std::jthread watcher_;
};

}  // namespace octavo
