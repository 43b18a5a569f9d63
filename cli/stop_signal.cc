#include "cli/stop_signal.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "core/base/error.h"

namespace octavo {

StopSignal::StopSignal() {
  sigset_t signals;
  sigemptyset(&signals);
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  fd_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  watcher_ = std::jthread([this](std::stop_token stop) { Watch(stop); });
}

StopSignal::~StopSignal() {
  watcher_.request_stop();
  watcher_.join();
  if (fd_ >= 0) close(fd_);
}

void StopSignal::Watch(std::stop_token stop) {
  while (!stop.stop_requested()) {
    pollfd waiting = {fd_, POLLIN, 0};
    if (poll(&waiting, 1, 50) <= 0) continue;
    signalfd_siginfo info;
    if (read(fd_, &info, sizeof info) != sizeof info) continue;
    if (source_.stop_requested()) _exit(InfoOf(Reason::kCancelled).exit_code);
    source_.request_stop();
  }
}

bool StopSignal::WaitFor(std::chrono::milliseconds time) const {
  const auto end = std::chrono::steady_clock::now() + time;
  while (!requested() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return requested();
}

}  // namespace octavo
