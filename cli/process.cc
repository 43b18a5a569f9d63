#include "cli/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string_view>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

extern char** environ;

namespace octavo {
namespace {

// Where a child finds its two descriptors.
constexpr int kReadyFd = 3;
constexpr int kParentFd = 4;

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// posix_spawn's two attribute objects, freed together.
struct SpawnSetup {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  SpawnSetup() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnSetup() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnSetup(const SpawnSetup&) = delete;
  SpawnSetup& operator=(const SpawnSetup&) = delete;
};

Reason ReasonOfExit(int exit_code) {
  // Of reasons that share a code, those for which a program does not start.
  for (const Reason likely : {Reason::kBusy, Reason::kHardware}) {
    if (exit_code == InfoOf(likely).exit_code) return likely;
  }
  for (const ReasonInfo& info : AllReasons()) {
    if (info.exit_code == exit_code) return info.reason;
  }
  return Reason::kInternal;
}

std::string LastError(const std::string& log_path) {
  constexpr std::string_view kMark = "error: ";
  std::ifstream log(log_path);
  std::string line, found;
  while (std::getline(log, line)) {
    if (line.starts_with(kMark)) found = line.substr(kMark.size());
  }
  return found;
}

absl::StatusOr<ReadyLine> ParseReady(const ChildSpec& spec, const std::string& line) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("address") || !json["address"].is_string()) {
    return MakeError(
        Reason::kInternal,
        fmt::format("{} reported something else than its address: {}", spec.name, line));
  }
  ReadyLine ready;
  ready.address = json["address"].get<std::string>();
  if (json.contains("metrics") && json["metrics"].is_string()) {
    ready.metrics = json["metrics"].get<std::string>();
  }
  return ready;
}

}  // namespace

OwnedFd& OwnedFd::operator=(OwnedFd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = other.Release();
  }
  return *this;
}

int OwnedFd::Release() { return std::exchange(fd_, -1); }

void OwnedFd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return ErrnoError("cannot make a pipe", errno, {});
  return Pipe{OwnedFd(fds[0]), OwnedFd(fds[1])};
}

absl::StatusOr<Child> Child::Spawn(const ChildSpec& spec, int parent_fd) {
  OCTAVO_ASSIGN_OR_RETURN(Pipe ready, MakePipe());
  // Numbers well above 3 and 4, so that one dup2 cannot overwrite the source of the next.
  OwnedFd ready_end(fcntl(ready.write.get(), F_DUPFD_CLOEXEC, 16));
  OwnedFd parent_end(fcntl(parent_fd, F_DUPFD_CLOEXEC, 16));
  if (ready_end.get() < 0 || parent_end.get() < 0) {
    return ErrnoError("cannot duplicate a descriptor", errno, {});
  }
  SpawnSetup setup;
  posix_spawn_file_actions_addopen(&setup.actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&setup.actions, 2, spec.log_path.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&setup.actions, 2, 1);
  posix_spawn_file_actions_adddup2(&setup.actions, ready_end.get(), kReadyFd);
  posix_spawn_file_actions_adddup2(&setup.actions, parent_end.get(), kParentFd);
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  for (int signal : {SIGINT, SIGTERM, SIGPIPE, SIGHUP}) sigaddset(&defaults, signal);
  posix_spawnattr_setsigmask(&setup.attributes, &none);
  posix_spawnattr_setsigdefault(&setup.attributes, &defaults);
  posix_spawnattr_setpgroup(&setup.attributes, 0);
  posix_spawnattr_setflags(&setup.attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  std::vector<std::string> arguments = {spec.program};
  arguments.insert(arguments.end(), spec.args.begin(), spec.args.end());
  arguments.insert(arguments.end(), {"--ready-fd", std::to_string(kReadyFd), "--parent-fd",
                                     std::to_string(kParentFd)});
  std::vector<std::string> environment = spec.environment;
  Child child;
  const int error =
      posix_spawn(&child.pid_, spec.program.c_str(), &setup.actions, &setup.attributes,
                  Pointers(arguments).data(), Pointers(environment).data());
  if (error != 0) {
    child.pid_ = -1;
    return ErrnoError(fmt::format("cannot start {}", spec.name), error, {.file = spec.program});
  }
  child.pidfd_ = OwnedFd(static_cast<int>(syscall(SYS_pidfd_open, child.pid_, 0)));
  child.ready_ = std::move(ready.read);
  return child;
}

absl::StatusOr<ReadyLine> Child::AwaitReady(const ChildSpec& spec,
                                            std::chrono::milliseconds timeout) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  std::string line;
  while (line.empty() || line.back() != '\n') {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    pollfd waiting = {ready_.get(), POLLIN, 0};
    const int count = left.count() > 0 ? poll(&waiting, 1, static_cast<int>(left.count())) : 0;
    if (count == 0) {
      return MakeError(Reason::kUnreachable,
                       fmt::format("{} did not become ready in {} ms", spec.name, timeout.count()),
                       {.file = spec.log_path}, "its log says why");
    }
    if (count < 0 && errno == EINTR) continue;
    char bytes[512];
    const ssize_t got = read(ready_.get(), bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    line.append(bytes, static_cast<size_t>(got));
  }
  ready_.Reset();
  if (!line.empty() && line.back() == '\n') return ParseReady(spec, line);
  // End of file without a line: the child is ending, or ended.
  while (std::chrono::steady_clock::now() < end) {
    if (const auto status = TryReap()) return ExitError(spec, *status);
    pollfd waiting = {pidfd_.get(), POLLIN, 0};
    poll(&waiting, 1, 20);
  }
  return MakeError(Reason::kInternal, fmt::format("{} closed its ready line and stayed", spec.name),
                   {.file = spec.log_path});
}

std::optional<int> Child::TryReap() {
  if (pid_ <= 0) return std::nullopt;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  pid_ = -1;
  pidfd_.Reset();
  return status;
}

void Child::Signal(int signal) const {
  if (pid_ > 0) kill(pid_, signal);
}

void Child::Stop(std::chrono::milliseconds grace) {
  if (pid_ <= 0) return;
  Signal(SIGTERM);
  Signal(SIGCONT);
  const auto end = std::chrono::steady_clock::now() + grace;
  while (std::chrono::steady_clock::now() < end) {
    if (TryReap()) return;
    pollfd waiting = {pidfd_.get(), POLLIN, 0};
    poll(&waiting, 1, 20);
  }
  Signal(SIGKILL);
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = -1;
  pidfd_.Reset();
}

std::string ExitText(int wait_status) {
  if (WIFSIGNALED(wait_status)) return fmt::format("killed by signal {}", WTERMSIG(wait_status));
  return fmt::format("exited with {}", WEXITSTATUS(wait_status));
}

absl::Status ExitError(const ChildSpec& spec, int wait_status) {
  const std::string said = LastError(spec.log_path);
  if (WIFSIGNALED(wait_status) || said.empty()) {
    return MakeError(
        WIFSIGNALED(wait_status) ? Reason::kUnreachable : ReasonOfExit(WEXITSTATUS(wait_status)),
        fmt::format("{} {}", spec.name, ExitText(wait_status)), {.file = spec.log_path},
        "its log says why");
  }
  return MakeError(ReasonOfExit(WEXITSTATUS(wait_status)), said);
}

absl::StatusOr<std::string> OutputOf(const std::string& program,
                                     const std::vector<std::string>& args) {
  OCTAVO_ASSIGN_OR_RETURN(Pipe pipe, MakePipe());
  SpawnSetup setup;
  posix_spawn_file_actions_addopen(&setup.actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&setup.actions, pipe.write.get(), 1);
  std::vector<std::string> arguments = {program};
  arguments.insert(arguments.end(), args.begin(), args.end());
  pid_t pid = -1;
  const int error = posix_spawn(&pid, program.c_str(), &setup.actions, &setup.attributes,
                                Pointers(arguments).data(), environ);
  if (error != 0) return ErrnoError("cannot start", error, {.file = program});
  pipe.write.Reset();
  std::string output;
  char bytes[4096];
  while (true) {
    const ssize_t got = read(pipe.read.get(), bytes, sizeof bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    output.append(bytes, static_cast<size_t>(got));
  }
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (status == 0) return output;
  return MakeError(WIFEXITED(status) ? ReasonOfExit(WEXITSTATUS(status)) : Reason::kInternal,
                   fmt::format("{} {}", program, ExitText(status)));
}

}  // namespace octavo
