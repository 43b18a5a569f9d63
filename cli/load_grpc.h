#pragma once

// Load on a coordinator's or gateway's Inference service.

#include "cli/load_run.h"
#include "cli/session.h"

namespace octavo {

// Failures carry the name of their reason. The session and `stop` outlive it.
LoadSender GrpcSender(const Session& session, const StopSignal& stop, const LoadTarget& target);

}  // namespace octavo
