#pragma once

// A job being worked on: its plan, leases, receipts and figures. Pure but for the times it is
// given; JobDesk owns it and journals what it decides.

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/control/lease_table.h"
#include "octavo/v1/job.pb.h"
#include "octavo/v1/plan.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// True if two executions of a unit left the same bytes and the same statistics.
bool SameResult(const v1::Receipt& a, const v1::Receipt& b);

class JobRun {
 public:
  using Nanos = std::chrono::nanoseconds;

  // `job` names source, staging folder and source identities. `kept`: receipts of an earlier run,
  // at most one of a unit.
  JobRun(const v1::Job& job, v1::Plan plan, std::vector<v1::Receipt> kept);

  // The next task for `worker` under `epoch`; nothing if no unit is ready.
  std::optional<v1::Task> Lease(const std::string& worker, uint64_t epoch);

  enum class Answer {
    kDone,
    kDuplicate,  // done before, with the same result
    kDisagrees,  // done before, with another result: see reopened()
    kStale,      // under a lease that is not current
    kUnknown,    // no such unit
  };
  Answer OnReceipt(const std::string& worker, const v1::Receipt& receipt, Nanos now);

  // The units that the last kDisagrees opened again: the unit and what was done on top of it. Their
  // receipts are forgotten.
  const std::vector<uint32_t>& reopened() const { return reopened_; }

  // A unit failed on its worker. True if the lease was current; the unit waits again.
  bool OnFailed(uint32_t unit, uint64_t epoch);
  // Failures of this unit so far in this run.
  uint32_t failures(uint32_t unit) const;
  // Units that wait again because their worker is gone.
  std::vector<uint32_t> OnWorkerLost(const std::string& worker);
  // Workers that hold leases, which all end.
  std::vector<std::string> ReleaseAll();

  bool all_done() const { return table_.all_done(); }
  const LeaseTable& table() const { return table_; }
  const v1::Plan& plan() const { return plan_; }
  // By unit; complete when all_done().
  const std::vector<v1::Receipt>& receipts() const { return receipts_; }
  uint32_t disagreements() const { return disagreements_; }

  // Everything but elapsed_seconds and the workers' states.
  v1::JobProgress Progress() const;
  // Source bytes per second over the last 5 s.
  double Rate(Nanos now) const;

 private:
  struct Tally {
    uint64_t units_done = 0;
    uint64_t bytes_read = 0;
  };

  void MergeFinishedPhases();
  void Void(uint32_t unit);

  const v1::Job job_;
  const v1::Plan plan_;
  LeaseTable table_;
  std::vector<v1::Receipt> receipts_;
  std::vector<v1::TieStat> stats_;
  uint32_t stats_phase_ = 0;  // the phase that stats_ are for
  std::map<uint32_t, uint32_t> failures_;
  std::map<std::string, Tally> tallies_;
  std::deque<std::pair<Nanos, uint64_t>> samples_;  // source bytes done so far
  v1::JobProgress sums_;
  uint32_t disagreements_ = 0;
  std::vector<uint32_t> reopened_;
};

}  // namespace octavo
