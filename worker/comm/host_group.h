#pragma once

// Ranks that are processes of one host. They meet in a region of memory that all of them map: each
// writes its bytes into a seat of its own and counts up, waits until the others have, and copies
// theirs. Waiting spins for a moment, then sleeps in the kernel. No socket, no thread, no system
// call as long as the ranks keep step.
//
// A rank that dies is noticed within some 10 ms, by the lock on the region that the kernel takes
// from it; one that is merely stopped is the coordinator's to notice, which aborts the group.

#include "worker/comm/process_group.h"

namespace octavo {

// Null, on every rank alike, where the ranks cannot share memory: other hosts, other process
// namespaces or users, a rank that was told to use sockets. Errors: those of the rendezvous.
absl::StatusOr<std::unique_ptr<Communicator>> MakeHostGroup(const GroupOptions& options,
                                                            const Rendezvous& rendezvous);

}  // namespace octavo
