#include "cli/run_job.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "cli/job_client.h"
#include "cli/progress.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr int kSubmissionsMax = 50;
constexpr int kWarningsShown = 5;  // of blocks that do not fit there is one for every matrix
constexpr auto kSettlePoll = std::chrono::milliseconds(50);
constexpr int kSettlePollsMax = 600;

// Cancels a job and waits for how it ended: one that is being published will be there in a moment.
absl::StatusOr<v1::Job> Settle(const Session& session, const std::string& id) {
  auto job = CancelJob(session, id);
  for (int poll = 0; job.ok() && !IsTerminal(job->state()) && poll < kSettlePollsMax; ++poll) {
    std::this_thread::sleep_for(kSettlePoll);
    job = GetJob(session, id);
  }
  return job.ok() ? job : WithContext(job.status(), "the job could not be cancelled");
}

void PrintWarnings(const v1::Job& job) {
  const int shown = std::min(job.warnings_size(), kWarningsShown);
  for (int i = 0; i < shown; ++i) {
    const v1::Warning& warning = job.warnings(i);
    fmt::print(stderr, "warning: {}{}{}\n", warning.tensor(), warning.tensor().empty() ? "" : ": ",
               warning.text());
  }
  if (job.warnings_size() > shown) {
    fmt::print(stderr, "and {} more warnings; the report has them all\n",
               job.warnings_size() - shown);
  }
}

}  // namespace

absl::StatusOr<v1::Job> RunJob(const Session& session, const StopSignal& stop,
                               const v1::SubmitJobRequest& request) {
  ProgressDisplay display(stderr);
  for (int submission = 0;; ++submission) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::Job job, SubmitJob(session, stop, request));
    if (IsTerminal(job.state())) {
      PrintWarnings(job);
      return job;
    }
    auto followed =
        FollowJob(session, stop, job.id(), [&](const v1::Job& now) { display.Show(now); });
    if (!followed.ok()) {
      return stop.requested() ? Settle(session, job.id()) : followed.status();
    }
    if (followed->job.state() != v1::JOB_CANCELLED || !followed->coordinator_restarted ||
        submission == kSubmissionsMax) {
      display.Finish();
      PrintWarnings(followed->job);
      return followed->job;
    }
  }
}

}  // namespace octavo
