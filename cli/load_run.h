#pragma once

// Sends a planned load and records what each request's client saw. How a request is sent, and to
// whom, comes in from outside: load_grpc.h, load_http.h.

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cli/load_figures.h"
#include "cli/load_plan.h"
#include "cli/stop_signal.h"

namespace octavo {

// What is asked of the server with every request.
struct LoadTarget {
  std::string model;             // empty: the only one loaded
  double temperature = 0;        // 0: greedy
  double timeout_seconds = 300;  // of a request, after which it has failed
};

// Seconds since a load began.
class LoadClock {
 public:
  double now() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start_ = Clock::now();
};

// Notes the arrival of one or more tokens.
void NoteArrival(const LoadClock& clock, RequestRecord* record);

// Sends one request, follows its stream and fills in the record, all but `due`. Answers of fewer
// tokens than planned count as what they have; end-of-text ids do not end them.
using LoadSender = std::function<void(const PlannedRequest&, const LoadClock&, RequestRecord*)>;

struct LoadRun {
  uint32_t clients = 8;                 // threads, one request in flight each
  bool open_loop = false;               // wait for each request's own time
  std::function<LoadSender()> connect;  // called by each client once
};

// Blocks until every request ended. When `stop` fires what is left fails as CANCELLED.
std::vector<RequestRecord> RunLoad(std::span<const PlannedRequest> plan, const LoadRun& run,
                                   const StopSignal& stop);

}  // namespace octavo
