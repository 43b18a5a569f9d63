#pragma once

// One child process of a local cluster: started in a process group of its own (Ctrl-C reaches only
// the CLI), told through --ready-fd where to report that it listens, and through --parent-fd a pipe
// whose end of file means that the CLI is gone.

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace octavo {

// A file descriptor that closes itself.
class OwnedFd {
 public:
  OwnedFd() = default;
  explicit OwnedFd(int fd) : fd_(fd) {}
  ~OwnedFd() { Reset(); }
  OwnedFd(OwnedFd&& other) noexcept : fd_(other.Release()) {}
  OwnedFd& operator=(OwnedFd&& other) noexcept;
  int get() const { return fd_; }
  int Release();
  void Reset();

 private:
  int fd_ = -1;
};

struct Pipe {
  OwnedFd read;
  OwnedFd write;
};
// Both ends close on exec.
absl::StatusOr<Pipe> MakePipe();

struct ChildSpec {
  std::string name;                      // "worker 0", for messages
  std::string program;                   // absolute path
  std::vector<std::string> args;         // without the program and without --ready-fd, --parent-fd
  std::vector<std::string> environment;  // "NAME=value", complete
  std::string log_path;                  // standard error goes here, appended
};

// What a child reports when it listens.
struct ReadyLine {
  std::string address;
  std::string metrics;
};

class Child {
 public:
  Child() = default;
  // `parent_fd` is the read end of the CLI's life line.
  static absl::StatusOr<Child> Spawn(const ChildSpec& spec, int parent_fd);

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  bool running() const { return pid_ > 0; }

  // Waits for the ready line. A child that exits first gives the error it ended with (its last line
  // on standard error and the reason of its exit code); one that says nothing in time kUnreachable.
  absl::StatusOr<ReadyLine> AwaitReady(const ChildSpec& spec, std::chrono::milliseconds timeout);

  // Its exit status once it has ended (then the child is gone); nothing while it runs.
  std::optional<int> TryReap();
  void Signal(int signal) const;
  // SIGTERM, then SIGKILL after `grace`; reaps.
  void Stop(std::chrono::milliseconds grace);

 private:
  pid_t pid_ = -1;
  OwnedFd pidfd_;
  OwnedFd ready_;
};

// "killed by signal 9", "exited with 75".
std::string ExitText(int wait_status);

// The error a child ended with: reason from its exit code, text from the last "error: " line of its
// log.
absl::Status ExitError(const ChildSpec& spec, int wait_status);

// Runs a program to its end and returns what it wrote to standard output (standard error is ours).
// Its failure is this one's error.
absl::StatusOr<std::string> OutputOf(const std::string& program,
                                     const std::vector<std::string>& args);

}  // namespace octavo
