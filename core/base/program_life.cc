#include "core/base/program_life.h"

#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <thread>

#include "core/base/error.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr int kParentGone = 75;

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void BlockStopSignals() {
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

bool WaitForStop(std::chrono::milliseconds timeout) {
  const sigset_t set = StopSignals();
  const timespec wait = {.tv_sec = timeout.count() / 1000,
                         .tv_nsec = timeout.count() % 1000 * 1'000'000};
  return sigtimedwait(&set, nullptr, &wait) > 0;
}

absl::Status ReportReady(int fd, std::string_view address, std::string_view metrics) {
  if (fd < 0) return absl::OkStatus();
  const std::string line = fmt::format("{{\"address\":\"{}\",\"metrics\":\"{}\",\"pid\":{}}}\n",
                                       address, metrics, getpid());
  const ssize_t written = write(fd, line.data(), line.size());
  const int error = errno;
  close(fd);
  if (written == static_cast<ssize_t>(line.size())) return absl::OkStatus();
  return ErrnoError("cannot report readiness", error, {.file = fmt::format("descriptor {}", fd)});
}

void ExitWithParent(int fd) {
  if (fd < 0) return;
  std::thread([fd] {
    char byte = 0;
    for (;;) {
      const ssize_t got = read(fd, &byte, 1);
      if (got == 0 || (got < 0 && errno != EINTR)) _exit(kParentGone);
    }
  }).detach();
}

}  // namespace octavo
