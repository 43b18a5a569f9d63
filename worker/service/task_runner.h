#pragma once

// Keeps a worker busy with tasks: asks the coordinator for as many as it has slots, runs them on
// its threads, and reports receipts in batches, each batch after one SyncTouched. Knows nothing of
// gRPC: what it says goes through a callback.
//
// A task ends in exactly one of: Receipt, TaskFailed, or silence, when the lease or the job ended.
// One credit (WantTasks) is asked for each slot, and given back when its task has run, so that
// reading the next unit overlaps with the syncing of the last.

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/mutex.h"
#include "octavo/v1/cluster.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

class TaskRunner {
 public:
  struct Hooks {
    // Several at once, from the runner's threads (QuantizeStage::Run, Prefetch, SyncTouched).
    std::function<absl::StatusOr<v1::Receipt>(const v1::Task&, std::stop_token)> run;
    std::function<void(const v1::Task&)> prefetch;
    std::function<absl::Status()> sync;
    // To the coordinator; may drop what it is given when there is no stream.
    std::function<void(v1::Report)> send;
  };

  // `slots` tasks run at once; as many more wait with their bytes prefetched.
  TaskRunner(int slots, Hooks hooks);
  ~TaskRunner();

  // A new lease: everything of the one before is void. Asks for tasks.
  void Attached();
  // The lease is gone: stops running tasks within a block of rows and forgets their receipts.
  void Detached();
  void Add(v1::Task task);
  // The job ended: its tasks are dropped without a report.
  void Revoke(const std::string& job_id);

  int slots() const { return slots_; }

 private:
  // One task on its way through the runner.
  struct Entry {
    v1::Task task;
    v1::Receipt receipt;
    bool done = false;      // the receipt is true of the page cache
    std::stop_source stop;  // requested: nobody wants to hear of it any more
  };
  using EntryPtr = std::shared_ptr<Entry>;

  void RunLoop(const std::stop_token& stop);
  void RunOne(Entry& entry);
  void ReceiptLoop(const std::stop_token& stop);
  void SendBatch(const std::vector<EntryPtr>& batch);
  void SendFailure(const v1::Task& task, const absl::Status& status);
  // Asks for the tasks that there is room for.
  void Ask();

  const int slots_;
  const Hooks hooks_;
  Mutex mutex_;
  CondVar changed_;
  bool attached_ OCTAVO_GUARDED_BY(mutex_) = false;
  uint32_t room_ OCTAVO_GUARDED_BY(mutex_) = 0;  // tasks not yet asked for
  std::deque<EntryPtr> waiting_ OCTAVO_GUARDED_BY(mutex_);
  std::vector<EntryPtr> running_ OCTAVO_GUARDED_BY(mutex_);
  std::vector<EntryPtr> finished_ OCTAVO_GUARDED_BY(mutex_);  // not yet synced
  std::vector<std::jthread> threads_;
};

}  // namespace octavo
