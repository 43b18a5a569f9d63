#include "cli/session.h"

#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "CLI/CLI.hpp"
#include "cli/cluster_file.h"
#include "cli/quantity.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "octavo/v1/service/coordinator.grpc.pb.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLeasePoll{250};
constexpr milliseconds kNap{10};
constexpr milliseconds kCallTimeout{2'000};
constexpr int kLostPollsMax = 2;
// 10 seconds: a worker that starts or dials again is there long before.
constexpr int kUnknownPollsMax = 40;
constexpr int kWorkersMax = 64;

}  // namespace

void AddCoordinatorFlags(CLI::App& command, ClusterFlags& flags) {
  command.add_option("--coordinator", flags.coordinator,
                     "HOST:PORT of a running cluster (octavo up prints it)");
  command.add_option("--token-file", flags.token_file, "File with the cluster's token");
}

void AddClusterFlags(CLI::App& command, ClusterFlags& flags) {
  AddCoordinatorFlags(command, flags);
  command.add_option("--workers", flags.workers, "Worker processes of the local cluster")
      ->check(CLI::Range(1, kWorkersMax));
  command.add_option("--memory", flags.memory, "Memory of each worker, like 512MiB")
      ->capture_default_str();
  command
      .add_option("--threads", flags.threads,
                  "Threads of each worker (default: the cores shared out)")
      ->check(CLI::Range(1, 1024));
  command.add_option("--isa", flags.isa, "Instruction set of the workers' kernels")
      ->check(CLI::IsMember({"auto", "reference", "avx2", "avx512"}));
  command
      .add_option("--collectives", flags.collectives,
                  "How ranks of one host meet: shared memory where possible, or TCP")
      ->check(CLI::IsMember({"auto", "tcp"}));
}

absl::StatusOr<std::unique_ptr<Session>> Session::Remote(const Context& context,
                                                         const ClusterFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string token,
                          FindToken(context.places, flags.coordinator, flags.token_file));
  auto session = std::unique_ptr<Session>(new Session);
  session->address_ = flags.coordinator;
  session->channel_ = MakeChannel(flags.coordinator, token);
  return session;
}

absl::StatusOr<std::unique_ptr<Session>> Session::Local(const Context& context,
                                                        const ClusterFlags& flags,
                                                        const std::string& state_dir) {
  OCTAVO_RETURN_IF_ERROR(ParseBytes(flags.memory, "--memory").status());
  LocalClusterOptions options;
  options.workers = flags.workers;
  options.state_dir = state_dir;
  options.memory = flags.memory;
  options.threads = flags.threads;
  options.isa = flags.isa;
  if (!flags.collectives.empty()) options.worker_args = {"--collectives", flags.collectives};
  options.port = static_cast<uint16_t>(flags.port);
  options.log_level = context.log_level;
  auto session = std::unique_ptr<Session>(new Session);
  OCTAVO_ASSIGN_OR_RETURN(session->local_, LocalCluster::Start(options));
  session->address_ = session->local_->address();
  session->channel_ = MakeChannel(session->address_, session->local_->token());
  session->lease_watch_ =
      std::jthread([pointer = session.get()](std::stop_token stop) { pointer->WatchLeases(stop); });
  return session;
}

absl::StatusOr<std::unique_ptr<Session>> Session::Open(const Context& context,
                                                       const ClusterFlags& flags) {
  if (!flags.coordinator.empty()) return Remote(context, flags);
  std::string dir = (std::filesystem::temp_directory_path() / "octavo-XXXXXX").string();
  if (mkdtemp(dir.data()) == nullptr) {
    return ErrnoError("cannot make a temporary folder", errno, {.file = dir});
  }
  auto session = Local(context, flags, dir);
  if (session.ok()) {
    (*session)->temporary_dir_ = dir;
  } else {
    std::error_code ignored;
    std::filesystem::remove_all(dir, ignored);
  }
  return session;
}

Session::~Session() { Stop(); }

void Session::Stop() {
  if (lease_watch_.joinable()) {
    lease_watch_.request_stop();
    lease_watch_.join();
  }
  if (local_) local_->Stop();
  if (!temporary_dir_.empty()) {
    std::error_code ignored;
    std::filesystem::remove_all(std::exchange(temporary_dir_, ""), ignored);
  }
}

absl::Status Session::Health() const { return local_ ? local_->Health() : absl::OkStatus(); }

// A worker that the coordinator calls lost while its process lives (stopped, hung) holds memory and
// perhaps a device: it is killed, and the launcher starts a fresh one. Two looks in a row, because
// a worker that attaches anew is briefly listed with its old self. So is one that the coordinator
// does not know: it hung before a coordinator that started anew could see it.
void Session::WatchLeases(std::stop_token stop) {
  auto stub = v1::Cluster::NewStub(channel_);
  std::map<pid_t, int> lost_looks, unknown_looks;
  while (!stop.stop_requested()) {
    // In short naps: whoever ends the command waits for this thread.
    for (auto slept = milliseconds(0); slept < kLeasePoll; slept += kNap) {
      if (stop.stop_requested()) return;
      std::this_thread::sleep_for(kNap);
    }
    grpc::ClientContext context;
    SetTimeout(context, kCallTimeout);
    v1::ListWorkersResponse response;
    if (!stub->ListWorkers(&context, {}, &response).ok()) {
      lost_looks.clear();
      unknown_looks.clear();
      continue;
    }
    std::set<pid_t> lost, alive;
    for (const v1::WorkerInfo& worker : response.workers()) {
      auto& set = worker.state() == "lost" ? lost : alive;
      set.insert(static_cast<pid_t>(worker.hello().pid()));
    }
    std::erase_if(lost_looks, [&](const auto& entry) { return !lost.contains(entry.first); });
    for (const pid_t pid : lost) {
      if (alive.contains(pid)) continue;
      if (++lost_looks[pid] == kLostPollsMax) local_->KillWorker(pid);
    }
    std::map<pid_t, int> still_unknown;
    for (const ProcessInfo& process : local_->processes()) {
      const pid_t pid = process.pid;
      if (pid == 0 || process.name == "coordinator") continue;
      if (lost.contains(pid) || alive.contains(pid)) continue;
      still_unknown[pid] = unknown_looks[pid] + 1;
      if (still_unknown[pid] == kUnknownPollsMax) local_->KillWorker(pid);
    }
    unknown_looks = std::move(still_unknown);
  }
}

absl::Status Retry(const Session& session, milliseconds patience, const std::function<bool()>& stop,
                   const std::function<absl::Status()>& call) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (true) {
    const absl::Status status = call();
    if (status.ok() || ReasonOf(status) != Reason::kUnreachable) return status;
    OCTAVO_RETURN_IF_ERROR(session.Health());
    if (stop && stop()) return MakeError(Reason::kCancelled, "interrupted");
    if (std::chrono::steady_clock::now() >= end) return status;
    std::this_thread::sleep_for(milliseconds(100));
  }
}

}  // namespace octavo
