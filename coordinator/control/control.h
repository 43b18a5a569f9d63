#pragma once

// The coordinator's decisions, in one place and under one lock: who is in the cluster, who does
// which unit, who serves which model. No network: workers are WorkerClients, requests are method
// calls.
//
// Reports of workers go through a queue into one control thread, which decides for all that came,
// makes the writes durable in one batch and then sends directives. Requests decide at once under
// the same lock. Nothing here waits for a disk but the journal; slow steps run in a SlowLane.

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/control/group_desk.h"
#include "coordinator/control/job_desk.h"
#include "coordinator/control/worker_client.h"
#include "coordinator/membership/membership.h"
#include "core/base/clock.h"
#include "core/base/limits.h"
#include "core/base/mutex.h"

namespace octavo {

struct ControlOptions {
  uint32_t beat_ms = kBeatMs;
  uint32_t lease_ms = kLeaseMs;
  const Clock* clock = &Clock::System();
  bool own_thread = true;  // false: the owner calls Step (tests)
};

class Control {
 public:
  // Workers may have this many tasks that they asked for and did not get.
  static constexpr uint32_t kCreditsMax = 1024;
  static constexpr size_t kQueueMax = 100'000;

  // Reads the journal. The pointers outlive the Control.
  static absl::StatusOr<std::unique_ptr<Control>> Start(const ControlOptions& options,
                                                        StateStore* store, ModelTable* models,
                                                        Metrics* metrics);
  ~Control();  // unfinished jobs stay in the journal
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // ---- Workers
  // Sends Welcome. Returns the session that goes with all reports of this stream. kBadRequest for a
  // Hello without an id, kFenced for a worker in quarantine.
  absl::StatusOr<uint64_t> Join(const v1::Hello& hello, std::shared_ptr<WorkerClient> client);
  // Never blocks. Reports of a void session are dropped.
  void OnReport(uint64_t session, v1::Report report);
  void Leave(uint64_t session);
  v1::ListWorkersResponse ListWorkers();
  // Takes a worker out of use: no task and no rank for it any more; what it computes it finishes,
  // and models on it move to other workers. It is done when it has neither ranks nor leased units.
  // Durable; `draining` false takes it back. kNotFound.
  absl::StatusOr<v1::WorkerInfo> DrainWorker(const std::string& worker_id, bool draining);

  // ---- Jobs (job_desk.h)
  absl::StatusOr<v1::Job> Submit(const v1::SubmitJobRequest& request);
  absl::StatusOr<v1::Job> GetJob(const std::string& id);
  std::vector<v1::Job> ListJobs();
  absl::StatusOr<v1::Job> CancelJob(const std::string& id);

  // ---- Models (group_desk.h)
  // Durable when they return: kDiskFull or kIo where the journal does not take it, and nothing is
  // loaded then.
  absl::StatusOr<v1::ModelInfo> LoadModel(const v1::LoadModelRequest& request);
  absl::StatusOr<v1::ModelInfo> GetModel(uint64_t load);  // of one Load
  std::vector<v1::ModelInfo> ListModels();
  absl::Status UnloadModel(const std::string& model_id);

  // One round of the control thread. Only with own_thread false.
  void Step() { Round(); }

 private:
  struct Attached {
    uint64_t session = 0;
    std::shared_ptr<WorkerClient> client;  // shared with the stream that it writes to
    uint32_t credits = 0;
    uint64_t units_done = 0;
  };

  Control(const ControlOptions& options, StateStore* store, ModelTable* models, Metrics* metrics);
  void Loop();
  void Round();
  void Post(std::function<void()> event);
  uint64_t NextEpoch();
  void HandleReport(uint64_t session, const v1::Report& report, Clock::Nanos arrived);
  void Lose(const std::string& worker, const char* cause, const absl::Status& why);
  void Quarantine(const std::string& worker, const std::string& why);
  void Dispatch();
  // Sends what the outbox holds. Not OK: the journal did not take the writes; jobs were told.
  absl::Status Flush();
  void UpdateGauges();
  v1::WorkerInfo Describe(const std::string& id, const Membership::Member& member) const;

  const ControlOptions options_;
  StateStore* const store_;
  Metrics* const metrics_;
  uint64_t incarnation_ = 0;

  Mutex queue_mutex_;
  CondVar queued_;
  std::deque<std::function<void()>> queue_ OCTAVO_GUARDED_BY(queue_mutex_);
  bool stopping_ OCTAVO_GUARDED_BY(queue_mutex_) = false;

  Mutex mutex_;
  Membership members_ OCTAVO_GUARDED_BY(mutex_);
  std::map<std::string, Attached> attached_ OCTAVO_GUARDED_BY(mutex_);  // ready workers
  Outbox outbox_ OCTAVO_GUARDED_BY(mutex_);
  uint64_t last_epoch_ OCTAVO_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<JobDesk> jobs_ OCTAVO_GUARDED_BY(mutex_);
  std::unique_ptr<GroupDesk> groups_ OCTAVO_GUARDED_BY(mutex_);

  std::unique_ptr<SlowLane> slow_;
  std::thread thread_;
};

}  // namespace octavo
