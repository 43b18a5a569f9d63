#pragma once

// All jobs of this coordinator. Every method runs under Control's lock, decides at once and leaves
// what is to be done in the Outbox; slow steps go through the SlowLane and come back by `post`.
//
//   PLANNING -> RUNNING -> PUBLISHING -> DONE, or FAILED / CANCELLED from any of the first three
//
// A job that ended without being done keeps its journal and staging folder; submitting it again
// resumes it. After a restart of the coordinator unfinished jobs wait as CANCELLED for that.

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/control/job_run.h"
#include "coordinator/control/job_steps.h"
#include "coordinator/control/outbox.h"
#include "coordinator/control/slow_lane.h"
#include "coordinator/membership/membership.h"
#include "core/base/clock.h"
#include "core/metrics/metrics.h"
#include "octavo/v1/cluster.pb.h"
#include "octavo/v1/job.pb.h"

namespace octavo {

class JobDesk {
 public:
  // Jobs that are kept in memory and journal; the oldest ended ones are forgotten beyond.
  static constexpr size_t kJobsMax = 1000;
  // A unit that failed this often fails its job; so does one whose worker was lost this often.
  static constexpr uint32_t kUnitFailuresMax = 3;
  static constexpr uint32_t kUnitAttemptsMax = 20;
  static constexpr uint32_t kDisagreementsMax = 3;

  struct Parts {
    StateStore* store;
    Metrics* metrics;
    const Clock* clock;
    const Membership* members;
    SlowLane* slow;
    Outbox* outbox;
    std::function<void(std::function<void()>)> post;  // runs it later under Control's lock
  };
  explicit JobDesk(Parts parts) : parts_(std::move(parts)) {}

  // Reads the journal. Before anything else.
  absl::Status Recover();

  absl::StatusOr<v1::Job> Submit(const v1::SubmitJobRequest& request);
  absl::StatusOr<v1::Job> Get(const std::string& id) const;  // kNotFound
  std::vector<v1::Job> List() const;                         // oldest first
  absl::StatusOr<v1::Job> Cancel(const std::string& id);     // ended jobs stay as they are

  // The next task for a worker with room, of the oldest running job.
  std::optional<v1::Task> NextTask(const std::string& worker, uint64_t epoch);
  // Why the worker is to be quarantined, if it is.
  std::optional<std::string> OnReceipt(const std::string& worker, const v1::Receipt& receipt);
  void OnTaskFailed(const std::string& worker, const v1::TaskFailed& failed);
  void OnWorkerLost(const std::string& worker);
  // Units that the worker is computing.
  uint32_t LeasedCount(const std::string& worker) const;
  // The journal does not take writes: every job that is not done fails with this.
  void FailAll(const absl::Status& status);
  void UpdateGauges();

 private:
  struct Entry {
    v1::Job job;
    uint64_t order = 0;       // of submission
    uint64_t generation = 0;  // of this run; results of slow steps of an earlier one are void
    bool slow_step = false;   // one is going on
    bool cancel_wanted = false;
    std::shared_ptr<const std::string> ids;  // of the calibration set, while PLANNING
    std::shared_ptr<JobRun> run;  // while RUNNING or PUBLISHING; shared with the publishing step
    Clock::Nanos submitted{0};
    Clock::Nanos running_since{0};
    Clock::Nanos publishing_since{0};
    Clock::Nanos ended{0};
  };

  static bool Active(const Entry& entry);
  void StartPlanning(Entry& entry);
  void OnPlanned(const std::string& id, uint64_t generation,
                 const std::shared_ptr<absl::StatusOr<PreparedJob>>& result);
  void StartPublishing(Entry& entry);
  void OnPublished(const std::string& id, uint64_t generation, const absl::Status& status);
  void ForgetUnits(Entry& entry);
  void DropOldJobs();
  void Journal(const Entry& entry);
  void Fail(Entry& entry, const absl::Status& status);
  void End(Entry& entry, v1::JobState state);
  void Revoke(const Entry& entry, const std::vector<std::string>& workers);
  v1::Job Snapshot(const Entry& entry) const;
  Entry* Running(const std::string& id);

  const Parts parts_;
  std::map<std::string, Entry> jobs_;
  uint64_t last_order_ = 0;
  uint64_t last_generation_ = 0;
};

}  // namespace octavo
