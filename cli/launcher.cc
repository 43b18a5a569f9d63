#include "cli/launcher.h"

#include <limits.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "fmt/format.h"

extern char** environ;

namespace octavo {
namespace {

using std::chrono::milliseconds;
using SteadyClock = std::chrono::steady_clock;

constexpr milliseconds kReadyTimeout{30'000};
constexpr milliseconds kStopGrace{5'000};
constexpr milliseconds kRestartPatience{1'000};
constexpr milliseconds kKeepInterval{20};
constexpr milliseconds kBackoffFirst{50};
constexpr milliseconds kBackoffMax{3'000};
constexpr std::chrono::seconds kLongLife{10};
constexpr int kQuickDeathsMax = 8;

milliseconds BackoffAfter(int quick_deaths) {
  const int shift = std::clamp(quick_deaths - 1, 0, 10);
  return std::min(kBackoffMax, kBackoffFirst * (1 << shift));
}

}  // namespace

absl::StatusOr<std::string> BinaryDir() {
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) return ErrnoError("cannot find this program", errno, {.file = "/proc/self/exe"});
  return std::filesystem::path(std::string(path, static_cast<size_t>(length)))
      .parent_path()
      .string();
}

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Start(
    const LocalClusterOptions& options) {
  auto cluster = std::unique_ptr<LocalCluster>(new LocalCluster(options));
  if (absl::Status status = cluster->StartAll(); !status.ok()) {
    cluster->Stop();
    return status;
  }
  return cluster;
}

LocalCluster::~LocalCluster() { Stop(); }

std::vector<std::string> LocalCluster::Environment() const {
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    if (text.starts_with("OCTAVO_TOKEN=")) continue;
    environment.emplace_back(text);
  }
  environment.push_back("OCTAVO_TOKEN=" + token_);
  return environment;
}

ChildSpec LocalCluster::CoordinatorSpec() const {
  ChildSpec spec;
  spec.name = "coordinator";
  spec.program = bin_dir_ + "/octavo-coordinator";
  const std::string listen =
      address_.empty() ? fmt::format("{}:{}", options_.listen_host, options_.port) : address_;
  const std::string metrics = metrics_address_.empty() ? "127.0.0.1:0" : metrics_address_;
  spec.args = {"--listen", listen, "--metrics-listen", metrics, "--state", options_.state_dir};
  if (!options_.log_level.empty()) {
    spec.args.insert(spec.args.end(), {"--log-level", options_.log_level});
  }
  spec.args.insert(spec.args.end(), options_.coordinator_args.begin(),
                   options_.coordinator_args.end());
  spec.log_path = options_.state_dir + "/coordinator.log";
  return spec;
}

ChildSpec LocalCluster::WorkerSpec(int index) const {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const int threads =
      options_.threads > 0 ? options_.threads : std::max(1, cores / options_.workers);
  ChildSpec spec;
  spec.name = fmt::format("worker {}", index);
  spec.program = bin_dir_ + "/octavo-worker";
  spec.args = {"--coordinator",    address_,      "--listen",  "127.0.0.1:0",
               "--metrics-listen", "127.0.0.1:0", "--threads", std::to_string(threads)};
  if (!options_.memory.empty()) spec.args.insert(spec.args.end(), {"--memory", options_.memory});
  if (!options_.isa.empty()) spec.args.insert(spec.args.end(), {"--isa", options_.isa});
  if (!options_.log_level.empty()) {
    spec.args.insert(spec.args.end(), {"--log-level", options_.log_level});
  }
  spec.args.insert(spec.args.end(), options_.worker_args.begin(), options_.worker_args.end());
  spec.log_path = fmt::format("{}/worker-{}.log", options_.state_dir, index);
  return spec;
}

absl::Status LocalCluster::StartAll() {
  OCTAVO_ASSIGN_OR_RETURN(bin_dir_, BinaryDir());
  std::error_code error;
  std::filesystem::create_directories(options_.state_dir, error);
  if (error) {
    return ErrnoError("cannot make the state folder", error.value(), {.file = options_.state_dir});
  }
  token_ = RandomHex(32);
  OCTAVO_ASSIGN_OR_RETURN(life_line_, MakePipe());

  MutexLock lock(mutex_);
  slots_.resize(static_cast<size_t>(options_.workers) + 1);
  auto spawn = [&](Slot& slot, ChildSpec spec) -> absl::Status {
    slot.spec = std::move(spec);
    slot.spec.environment = Environment();
    // The last error in a log must be of this life.
    unlink(slot.spec.log_path.c_str());
    slot.started = SteadyClock::now();
    OCTAVO_ASSIGN_OR_RETURN(slot.child, Child::Spawn(slot.spec, life_line_.read.get()));
    return absl::OkStatus();
  };
  Slot& coordinator = slots_[0];
  OCTAVO_RETURN_IF_ERROR(spawn(coordinator, CoordinatorSpec()));
  OCTAVO_ASSIGN_OR_RETURN(coordinator.ready,
                          coordinator.child.AwaitReady(coordinator.spec, kReadyTimeout));
  coordinator.ready_known = true;
  address_ = coordinator.ready.address;
  metrics_address_ = coordinator.ready.metrics;
  // From now on it listens on these very ports.
  coordinator.spec.args = CoordinatorSpec().args;
  for (int i = 0; i < options_.workers; ++i) {
    OCTAVO_RETURN_IF_ERROR(spawn(slots_[static_cast<size_t>(i) + 1], WorkerSpec(i)));
  }
  for (size_t i = 1; i < slots_.size(); ++i) {
    OCTAVO_ASSIGN_OR_RETURN(slots_[i].ready,
                            slots_[i].child.AwaitReady(slots_[i].spec, kReadyTimeout));
    slots_[i].ready_known = true;
  }
  keeper_ = std::jthread([this](std::stop_token stop) { Keep(stop); });
  return absl::OkStatus();
}

void LocalCluster::Keep(std::stop_token stop) {
  while (!stop.stop_requested()) {
    size_t count = 0;
    {
      MutexLock lock(mutex_);
      count = slots_.size();
    }
    for (size_t i = 0; i < count && !stop.stop_requested(); ++i) KeepSlot(i);
    std::this_thread::sleep_for(kKeepInterval);
  }
}

void LocalCluster::KeepSlot(size_t index) {
  {
    MutexLock lock(mutex_);
    Slot& slot = slots_[index];
    const auto now = SteadyClock::now();
    if (slot.child.running()) {
      if (!slot.ready_known) AwaitQuietly(slot, milliseconds(1));
      if (!slot.child.running()) return;
      const auto status = slot.child.TryReap();
      if (!status) return;
      slot.quick_deaths = now - slot.started < kLongLife ? slot.quick_deaths + 1 : 1;
      slot.restart_at = now + BackoffAfter(slot.quick_deaths);
      spdlog::warn("{} {}; it is started again", slot.spec.name, ExitText(*status));
      if (slot.quick_deaths >= kQuickDeathsMax && broken_.ok()) {
        broken_ = WithContext(ExitError(slot.spec, *status),
                              fmt::format("{} keeps dying", slot.spec.name));
      }
    }
    if (now < slot.restart_at || !broken_.ok()) return;
  }
  Restart(index);
}

void LocalCluster::AwaitQuietly(Slot& slot, milliseconds patience) {
  auto ready = slot.child.AwaitReady(slot.spec, patience);
  if (ready.ok()) {
    slot.ready = *ready;
    slot.ready_known = true;
  } else if (!slot.child.running()) {  // it ended, and was reaped there
    slot.quick_deaths += 1;
    slot.restart_at = SteadyClock::now() + BackoffAfter(slot.quick_deaths);
    if (slot.quick_deaths >= kQuickDeathsMax && broken_.ok()) {
      broken_ = WithContext(ready.status(), fmt::format("{} keeps dying", slot.spec.name));
    }
  }
}

void LocalCluster::Restart(size_t index) {
  std::function<void()> callback;
  {
    MutexLock lock(mutex_);
    Slot& slot = slots_[index];
    slot.started = SteadyClock::now();
    slot.restarts += 1;
    auto child = Child::Spawn(slot.spec, life_line_.read.get());
    if (!child.ok()) {
      broken_ = child.status();
      return;
    }
    slot.child = *std::move(child);
    slot.ready_known = false;
    // A worker is ready only when it is attached, which may take until the coordinator is back:
    // later passages go on waiting.
    AwaitQuietly(slot, kRestartPatience);
    callback = on_restart_;
  }
  if (callback) callback();
}

void LocalCluster::Stop() {
  if (std::exchange(stopped_, true)) return;
  if (keeper_.joinable()) {
    keeper_.request_stop();
    keeper_.join();
  }
  MutexLock lock(mutex_);
  // All workers at once, then the coordinator: it sees them leave.
  for (size_t i = 1; i < slots_.size(); ++i) {
    slots_[i].child.Signal(SIGTERM);
    slots_[i].child.Signal(SIGCONT);
  }
  for (size_t i = slots_.size(); i-- > 0;) slots_[i].child.Stop(kStopGrace);
}

void LocalCluster::KillWorker(pid_t pid) {
  MutexLock lock(mutex_);
  for (size_t i = 1; i < slots_.size(); ++i) {
    if (slots_[i].child.pid() == pid) {
      spdlog::warn("{} lost its lease; it is killed", slots_[i].spec.name);
      slots_[i].child.Signal(SIGKILL);
    }
  }
}

std::vector<ProcessInfo> LocalCluster::processes() const {
  MutexLock lock(mutex_);
  std::vector<ProcessInfo> infos;
  for (const Slot& slot : slots_) {
    infos.push_back({.name = slot.spec.name,
                     .pid = slot.child.running() ? slot.child.pid() : 0,
                     .address = slot.ready.address,
                     .metrics = slot.ready.metrics,
                     .restarts = slot.restarts});
  }
  return infos;
}

void LocalCluster::OnRestart(std::function<void()> callback) {
  MutexLock lock(mutex_);
  on_restart_ = std::move(callback);
}

absl::Status LocalCluster::Health() const {
  MutexLock lock(mutex_);
  return broken_;
}

}  // namespace octavo
