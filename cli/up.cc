// octavo up, octavo down: a local cluster that stays.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <memory>

#include "CLI/CLI.hpp"
#include "cli/cluster_file.h"
#include "cli/context.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "fmt/format.h"

extern char** environ;

namespace octavo {
namespace {

struct UpFlags {
  ClusterFlags cluster;
  std::string state;
  bool foreground = false;
};

std::string StateDir(const Context& context, const std::string& flag) {
  const std::string dir = flag.empty() ? context.places.state_dir + "/cluster" : flag;
  return std::filesystem::absolute(dir).lexically_normal().string();
}

// True while the process that keeps the cluster lives; guards against a reused pid by its name.
bool KeeperLives(pid_t pid) {
  if (pid <= 0 || kill(pid, 0) != 0) return false;
  std::error_code error;
  const auto exe =
      std::filesystem::read_symlink(fmt::format("/proc/{}/exe", pid), error).filename().string();
  return !error && exe.starts_with("octavo");
}

ClusterRecord RecordOf(const LocalCluster& cluster) {
  ClusterRecord record;
  record.address = cluster.address();
  record.token = cluster.token();
  record.keeper_pid = getpid();
  record.processes = cluster.processes();
  record.metrics = record.processes.front().metrics;
  return record;
}

void Print(const ClusterRecord& record, const std::string& state) {
  fmt::print("cluster at {} (metrics {}), state {}\n", record.address, record.metrics, state);
  for (const ProcessInfo& process : record.processes) {
    if (process.name == "coordinator") continue;
    fmt::print("{}: pid {}, {}, metrics {}\n", process.name, process.pid, process.address,
               process.metrics);
  }
  std::fflush(stdout);
}

// The keeper: holds the cluster until SIGTERM. Writes the cluster file when everything listens, and
// again whenever a process was replaced.
absl::Status Keep(const Context& context, const UpFlags& flags) {
  StopSignal stop;
  const std::string state = StateDir(context, flags.state);
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Local(context, flags.cluster, state));
  LocalCluster& cluster = *session->local();
  cluster.OnRestart([&cluster, state] {
    if (auto status = WriteClusterFile(state, RecordOf(cluster)); !status.ok()) {
      spdlog::error("{}", std::string(status.message()));
    }
  });
  OCTAVO_RETURN_IF_ERROR(RegisterToken(context.places, cluster.address(), cluster.token()));
  OCTAVO_RETURN_IF_ERROR(WriteClusterFile(state, RecordOf(cluster)));
  if (flags.foreground) Print(RecordOf(cluster), state);
  absl::Status health;
  while (!stop.WaitFor(std::chrono::milliseconds(500))) {
    health = session->Health();
    if (!health.ok()) break;
  }
  unlink(ClusterFilePath(state).c_str());
  ForgetToken(context.places, cluster.address());
  session->Stop();
  return health;
}

// Starts this program again as the keeper, in a session of its own, and waits for the cluster file.
absl::Status Up(const Context& context, const UpFlags& flags) {
  const std::string state = StateDir(context, flags.state);
  if (auto record = ReadClusterFile(state); record.ok() && KeeperLives(record->keeper_pid)) {
    return MakeError(Reason::kBusy, fmt::format("a cluster is up at {}", record->address),
                     {.file = ClusterFilePath(state)}, "Stop it with: octavo down");
  }
  std::error_code error;
  std::filesystem::create_directories(state, error);
  if (error) return ErrnoError("cannot make the state folder", error.value(), {.file = state});
  unlink(ClusterFilePath(state).c_str());
  const std::string log = state + "/keeper.log";
  std::vector<std::string> arguments = {
      "octavo",   "--log-level",       context.log_level,
      "up",       "--keeper",          "--state",
      state,      "--workers",         std::to_string(flags.cluster.workers),
      "--memory", flags.cluster.memory};
  if (flags.cluster.threads > 0) {
    arguments.insert(arguments.end(), {"--threads", std::to_string(flags.cluster.threads)});
  }
  if (!flags.cluster.isa.empty()) {
    arguments.insert(arguments.end(), {"--isa", flags.cluster.isa});
  }
  if (!flags.cluster.collectives.empty()) {
    arguments.insert(arguments.end(), {"--collectives", flags.cluster.collectives});
  }
  std::vector<char*> pointers;
  for (std::string& text : arguments) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  unlink(log.c_str());
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
  pid_t pid = -1;
  const int spawned =
      posix_spawn(&pid, "/proc/self/exe", &actions, &attributes, pointers.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (spawned != 0) return ErrnoError("cannot start the keeper", spawned, {});
  ChildSpec keeper;
  keeper.name = "the cluster's keeper";
  keeper.log_path = log;
  for (int tenths = 0; tenths < 600; ++tenths) {
    if (auto record = ReadClusterFile(state); record.ok() && record->keeper_pid == pid) {
      Print(*record, state);
      return absl::OkStatus();
    }
    int status = 0;
    if (waitpid(pid, &status, WNOHANG) == pid) return ExitError(keeper, status);
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  kill(pid, SIGKILL);
  return MakeError(Reason::kUnreachable, "the cluster did not come up in 60 s", {.file = log});
}

absl::Status Down(const Context& context, const std::string& flag) {
  const std::string state = StateDir(context, flag);
  OCTAVO_ASSIGN_OR_RETURN(const ClusterRecord record, ReadClusterFile(state));
  if (KeeperLives(record.keeper_pid)) {
    OwnedFd keeper(static_cast<int>(syscall(SYS_pidfd_open, record.keeper_pid, 0)));
    kill(record.keeper_pid, SIGTERM);
    pollfd waiting = {keeper.get(), POLLIN, 0};
    if (poll(&waiting, 1, 20'000) == 0) kill(record.keeper_pid, SIGKILL);
    poll(&waiting, 1, 5'000);
  }
  unlink(ClusterFilePath(state).c_str());
  ForgetToken(context.places, record.address);
  fmt::print("cluster at {} is down\n", record.address);
  return absl::OkStatus();
}

}  // namespace

void AddUp(CLI::App& app, Context& context) {
  auto flags = std::make_shared<UpFlags>();
  auto keeper = std::make_shared<bool>(false);
  CLI::App* up = app.add_subcommand("up", "Start a local cluster that stays");
  AddClusterFlags(*up, flags->cluster);
  up->remove_option(up->get_option("--coordinator"));
  up->remove_option(up->get_option("--token-file"));
  up->add_option("--state", flags->state, "Folder of its journal, logs and cluster.json");
  up->add_flag("--foreground", flags->foreground, "Keep it in this process, until Ctrl-C");
  up->add_flag("--keeper", *keeper, "")->group("");
  up->callback([&context, flags, keeper] {
    context.action = [&context, flags, keeper] {
      return *keeper || flags->foreground ? Keep(context, *flags) : Up(context, *flags);
    };
  });

  auto state = std::make_shared<std::string>();
  CLI::App* down = app.add_subcommand("down", "Stop the cluster that `octavo up` started");
  down->add_option("--state", *state, "The folder given to `octavo up`");
  down->callback(
      [&context, state] { context.action = [&context, state] { return Down(context, *state); }; });
}

}  // namespace octavo
