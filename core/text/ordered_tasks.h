#pragma once

// Independent tasks over threads, with the outcome of running them one after the other.

#include <cstddef>
#include <functional>

#include "absl/status/status.h"

namespace octavo {

// Calls `task` with 0..count-1, each at most once, on up to `threads` threads (this one among
// them). Returns the error of the lowest index that failed; all below it have been called. Later
// ones may or may not.
absl::Status RunTasks(size_t count, size_t threads,
                      const std::function<absl::Status(size_t)>& task);

}  // namespace octavo
