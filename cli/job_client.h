#pragma once

// Jobs seen from a client that lives through coordinators that die and come back.

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/job.pb.h"

namespace octavo {

bool IsTerminal(v1::JobState state);

absl::StatusOr<v1::Job> SubmitJob(const Session& session, const StopSignal& stop,
                                  const v1::SubmitJobRequest& request);
absl::StatusOr<v1::Job> GetJob(const Session& session, const std::string& id);
absl::StatusOr<v1::Job> CancelJob(const Session& session, const std::string& id);

struct Followed {
  v1::Job job;  // as it ended
  // The coordinator went away in between. One that came back holds unfinished jobs as cancelled
  // until they are submitted again.
  bool coordinator_restarted = false;
};
// Follows a job to its end, calling `show` for every state seen. kCancelled when `stop` fires
// first (the job itself goes on), kUnreachable when the coordinator stays away.
absl::StatusOr<Followed> FollowJob(const Session& session, const StopSignal& stop,
                                   const std::string& id,
                                   const std::function<void(const v1::Job&)>& show);

// OK for a job that is done; otherwise the failure, with its reason.
absl::Status OutcomeOf(const v1::Job& job);

// What `--json` prints of a job.
nlohmann::ordered_json JobJson(const v1::Job& job);

}  // namespace octavo
