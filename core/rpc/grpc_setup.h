#pragma once

// What gRPC has to know before it is first used in a process.
//
// Its own log lines go through ours, as debug: what they tell is in the statuses too. And channels
// look after their sockets ten times a second, not every five seconds: where no call waits, as
// between calls that failed at once, nothing else notices that a server is back, or that one goes.
// Abseil does not look for cycles among the locks.

namespace octavo {

void SetUpGrpc();  // once per process; later calls do nothing

}  // namespace octavo
