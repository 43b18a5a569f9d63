#pragma once

// A local cluster: one coordinator and N workers as child processes of this one, found beside
// /proc/self/exe. They live exactly as long as this object: a life-line pipe ends them when this
// process dies in whatever way, Stop() ends them in reverse order. A child that dies is started
// again with growing delay; a worker whose lease was lost (stopped, hung) is killed first. The
// coordinator keeps its port over restarts, so workers and clients find it again.

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/process.h"
#include "core/base/mutex.h"

namespace octavo {

struct LocalClusterOptions {
  int workers = 1;
  std::string state_dir;  // journal, lock and logs of the children; made if missing
  std::string memory;     // of each worker, as its flag takes it ("1GiB")
  int threads = 0;        // of each worker; 0: the cores divided by the workers
  std::string isa;        // empty: the worker chooses
  std::string log_level;  // of the children
  std::string listen_host = "127.0.0.1";
  uint16_t port = 0;                          // of the coordinator; 0: any
  std::vector<std::string> coordinator_args;  // more flags
  std::vector<std::string> worker_args;
};

struct ProcessInfo {
  std::string name;  // "coordinator", "worker 0"
  pid_t pid = 0;     // 0 while it is down
  std::string address;
  std::string metrics;
  int restarts = 0;
};

class LocalCluster {
 public:
  // Returns when the coordinator listens and every worker is attached. An error of a child that
  // does not come up is this function's error, with its reason (a coordinator that finds its state
  // folder locked: kBusy).
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Start(const LocalClusterOptions& options);
  ~LocalCluster();

  const std::string& address() const { return address_; }  // of the coordinator
  const std::string& token() const { return token_; }
  std::vector<ProcessInfo> processes() const;  // the coordinator first

  // Ends every child: workers first. Idempotent.
  void Stop();

  // Kills a worker that is alive but no longer counts; it is started again. Unknown pids are
  // ignored.
  void KillWorker(pid_t pid);

  // Called after any child was started again, on the keeper's thread. Set once, before trouble.
  void OnRestart(std::function<void()> callback);

  // Not OK when a child died eight times in a row without living ten seconds.
  absl::Status Health() const;

 private:
  struct Slot {
    ChildSpec spec;
    Child child;
    ReadyLine ready;
    bool ready_known = false;  // `ready` is of this life
    int restarts = 0;
    int quick_deaths = 0;
    std::chrono::steady_clock::time_point started;
    std::chrono::steady_clock::time_point restart_at;
  };

  explicit LocalCluster(const LocalClusterOptions& options) : options_(options) {}
  absl::Status StartAll();
  ChildSpec CoordinatorSpec() const;
  ChildSpec WorkerSpec(int index) const;
  std::vector<std::string> Environment() const;
  void Keep(std::stop_token stop);
  void KeepSlot(size_t index);
  // Learns the addresses of a child that was started again, if it says them in time; reaps one
  // that ended. REQUIRES mutex_ held.
  void AwaitQuietly(Slot& slot, std::chrono::milliseconds patience);
  void Restart(size_t index);

  const LocalClusterOptions options_;
  std::string bin_dir_;
  std::string token_;
  std::string address_;
  std::string metrics_address_;  // of the coordinator, too
  Pipe life_line_;
  mutable Mutex mutex_;
  std::vector<Slot> slots_ OCTAVO_GUARDED_BY(mutex_);  // 0: coordinator
  absl::Status broken_ OCTAVO_GUARDED_BY(mutex_);
  std::function<void()> on_restart_ OCTAVO_GUARDED_BY(mutex_);
  bool stopped_ = false;
  std::jthread keeper_;
};

// Folder of the running binary.
absl::StatusOr<std::string> BinaryDir();

}  // namespace octavo
