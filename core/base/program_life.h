#pragma once

// How a long-running program starts and ends: stop signals, readiness, and death of its parent.

#include <chrono>
#include <string_view>

#include "absl/status/status.h"

namespace octavo {

// Blocks SIGTERM and SIGINT in this thread and all threads it starts, so that WaitForStop sees
// them; ignores SIGPIPE. Call first in main.
void BlockStopSignals();

// True when SIGTERM or SIGINT has come; false after `timeout`.
bool WaitForStop(std::chrono::milliseconds timeout);

// Writes {"address":...,"metrics":...,"pid":...} and a newline to `fd` and closes it. Negative:
// does nothing.
absl::Status ReportReady(int fd, std::string_view address, std::string_view metrics);

// Ends this process at once, with exit code 75, when `fd` reports end of file: whoever holds its
// other end is gone. Negative: does nothing.
void ExitWithParent(int fd);

}  // namespace octavo
