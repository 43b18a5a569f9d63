#pragma once

// A quantization job from a command's point of view: submitted, shown, and cancelled with it.

#include "absl/status/statusor.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "octavo/v1/job.pb.h"

namespace octavo {

// Submits, shows progress and in the end warnings on standard error, and returns the job as it
// ended; submits again where the coordinator died in between and came back. When `stop` fires the
// job is cancelled first, unless it is about to be published.
absl::StatusOr<v1::Job> RunJob(const Session& session, const StopSignal& stop,
                               const v1::SubmitJobRequest& request);

}  // namespace octavo
