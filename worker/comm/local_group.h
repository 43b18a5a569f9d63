#pragma once

// Ranks that are threads of one process. Used by tests, and for a group of one rank.

#include <memory>
#include <vector>

#include "worker/comm/communicator.h"

namespace octavo {

// `size` communicators, by rank, that belong together. Each is used by one thread; Abort on any of
// them ends all. Waits are bounded by kCollectiveTimeoutSeconds.
std::vector<std::unique_ptr<Communicator>> MakeLocalGroup(int size);

}  // namespace octavo
