#pragma once

// An ordered group of ranks that exchange bytes during one model step. One of the seven virtual
// seams: LocalGroup (threads of one process), GlooGroup (processes, hosts); MeteredGroup counts
// what goes to one of them.
//
// Every rank calls the same operations in the same order with the same sizes; operations of one
// group never run at the same time. Sums are not a collective: callers gather partial sums and
// merge them in tree order themselves (docs/numerics.md), so that bits do not depend on the
// transport.
//
// A failure (peer closed, aborted, timed out) is kGroupLost and final: the group is useless from
// then on and every later call returns the same error at once.

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"

namespace octavo {

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // all = mine of rank 0, of rank 1, ... REQUIRES all.size() == size() * mine.size(). `mine` may be
  // this rank's own part of `all`.
  virtual absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;

  // Rank `root`'s bytes in `data` on every rank.
  virtual absl::Status Broadcast(std::span<std::byte> data, int root) = 0;

  // Returns when every rank has called it.
  virtual absl::Status Barrier() = 0;

  // From any thread, at any time: ends the group. A call blocked on this or (for LocalGroup and
  // whatever sees the connection close) any other rank returns kGroupLost with `why`.
  virtual void Abort(const std::string& why) = 0;
};

}  // namespace octavo
