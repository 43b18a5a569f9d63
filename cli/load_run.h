#pragma once

// Sends a planned load over gRPC and records what each request's client saw.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cli/load_figures.h"
#include "cli/load_plan.h"
#include "cli/session.h"
#include "cli/stop_signal.h"

namespace octavo {

struct LoadRun {
  std::string model;           // empty: the only one loaded
  uint32_t clients = 8;        // threads, one request in flight each
  bool open_loop = false;      // wait for each request's own time
  double temperature = 0;      // 0: greedy
  double timeout_seconds = 0;  // of a request, after which it has failed; 0: five minutes
};

// Blocks until every request ended. Answers of fewer tokens than planned count as what they have;
// end-of-text ids do not end them. When `stop` fires what is left fails as CANCELLED.
std::vector<RequestRecord> RunLoad(const Session& session, const StopSignal& stop,
                                   std::span<const PlannedRequest> plan, const LoadRun& run);

}  // namespace octavo
