#pragma once

// The steps of a job that wait for disks, run in the SlowLane: looking at the source and planning;
// finishing and publishing. They may be repeated after a crash at any point.

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/state/state_store.h"
#include "octavo/v1/job.pb.h"
#include "octavo/v1/plan.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// The id of the job that a request asks for: from its idempotency key, or from source, output and
// recipe. 16 hex digits.
std::string JobIdOf(const v1::SubmitJobRequest& request);

// kBadRequest unless source, output and recipe are there and the folders are absolute paths.
absl::Status CheckRequest(const v1::QuantizeRequest& request);

// The request with paths in one spelling: no ".", "..", double or trailing slashes.
v1::QuantizeRequest Normalized(v1::QuantizeRequest request);

// "OUTPUT.octavo/ID" and "OUTPUT.report.json".
std::string StagingDirOf(const std::string& output_dir, const std::string& job_id);
std::string ReportPathOf(const std::string& output_dir);

struct PreparedJob {
  v1::Job job;  // sources, warnings and already_done set
  v1::Plan plan;
  std::string plan_digest;
  std::vector<v1::Receipt> kept;  // of an earlier run, whose bytes are still in the staging folder
  bool unreported = false;        // already done by this very job, whose report is missing
  std::vector<uint32_t> dropped;  // units whose receipts are void now
};

// Opens the source, plans, compares with an earlier run (kSourceChanged where the source is not the
// one it worked on), checks places, output and free space, and stages the folder. With already_done
// nothing is staged. `ids`: of the calibration set, which the job itself holds without them.
absl::StatusOr<PreparedJob> PrepareJob(v1::Job job, std::string_view ids, StateStore& store);

// Removes the staging and scratch folders of a job that will not be resumed. What cannot be removed
// is logged.
void DropStaging(const v1::Job& job);

// Finishes and publishes; the report is written by the caller. Removes the staging folder's parent
// if nothing else lies there.
absl::Status PublishJob(const v1::Job& job, const v1::Plan& plan,
                        const std::vector<v1::Receipt>& receipts);

// Times of a job's parts, for the report.
struct JobTimes {
  double total_seconds = 0;  // from Submit to published
  double planning_seconds = 0;
  double running_seconds = 0;
  double publishing_seconds = 0;
};

// The report beside the output: what was done, how long it took, who did it. JSON.
std::string ReportText(const v1::Job& job, const JobTimes& times);
absl::Status WriteReport(const v1::Job& job, const JobTimes& times);

}  // namespace octavo
