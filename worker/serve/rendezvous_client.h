#pragma once

// The rendezvous of a serving group (worker/comm) over the Attach stream: puts go up, gets go up
// and are answered by a RendezvousValue when some rank has put the key.

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "core/base/mutex.h"
#include "octavo/v1/cluster.pb.h"
#include "worker/comm/process_group.h"

namespace octavo {

class RendezvousClient {
 public:
  explicit RendezvousClient(std::function<void(v1::Report)> send) : send_(std::move(send)) {}

  // The exchange of one group; its gets fail with kGroupLost once Abort(epoch) was called. An epoch
  // comes once in a lease.
  Rendezvous ForGroup(uint64_t group_epoch);

  // An answer of the coordinator.
  void Deliver(const v1::RendezvousValue& value);

  // Ends waiting gets of the group, and later ones at once.
  void Abort(uint64_t group_epoch);

  // A new lease: epochs may start again.
  void Reset();

 private:
  struct Call {
    uint64_t group_epoch = 0;
    bool aborted = false;
    std::optional<std::string> value = std::nullopt;
  };

  absl::StatusOr<std::string> Get(uint64_t group_epoch, const std::string& key,
                                  std::chrono::milliseconds timeout);

  const std::function<void(v1::Report)> send_;
  Mutex mutex_;
  CondVar changed_;
  uint64_t next_call_ OCTAVO_GUARDED_BY(mutex_) = 1;
  std::set<uint64_t> aborted_ OCTAVO_GUARDED_BY(mutex_);  // epochs, the latest of them
  std::map<uint64_t, Call> calls_ OCTAVO_GUARDED_BY(mutex_);
};

}  // namespace octavo
