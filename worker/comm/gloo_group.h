#pragma once

// Ranks that are processes, on one host or several, over Gloo's TCP transport. The only files that
// see Gloo are this one's .cc and its exceptions end there.

#include "worker/comm/process_group.h"

namespace octavo {

// As MakeProcessGroup, over sockets only.
absl::StatusOr<std::unique_ptr<Communicator>> MakeGlooGroup(const GroupOptions& options,
                                                            const Rendezvous& rendezvous);

}  // namespace octavo
