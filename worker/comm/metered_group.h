#pragma once

// What the collectives of a rank cost: passes every call on to another Communicator, and counts
// calls, bytes and time. A call more costs two looks at the clock, so that it can be left on.

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "worker/comm/communicator.h"

namespace octavo {

// Of one operation, since the group formed. Those that failed count, too.
struct CollectiveFigures {
  std::string_view op;           // "all_gather", "broadcast", "barrier"
  uint64_t bytes = 0;            // brought together, this rank's own among them
  uint64_t nanos = 0;            // in the calls, waiting for other ranks included
  std::vector<uint64_t> counts;  // of calls, by bound of their time, and those beyond the last
};

class MeteredGroup final : public Communicator {
 public:
  // `bounds`: of times, in seconds, ascending.
  MeteredGroup(std::unique_ptr<Communicator> group, std::span<const double> bounds);

  int rank() const override { return group_->rank(); }
  int size() const override { return group_->size(); }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override;
  absl::Status Broadcast(std::span<std::byte> data, int root) override;
  absl::Status Barrier() override;
  void Abort(const std::string& why) override { group_->Abort(why); }

  // Spent in all of them. From any thread, as figures().
  uint64_t nanos() const;
  // From any thread, while calls go on.
  std::vector<CollectiveFigures> figures() const;

 private:
  // Written by the one thread that calls, read by others.
  struct Counts {
    std::string_view op;
    std::atomic<uint64_t> bytes = 0;
    std::atomic<uint64_t> nanos = 0;
    std::vector<std::atomic<uint64_t>> by_bound;
  };
  template <typename Call>
  absl::Status Measure(Counts& counts, uint64_t bytes, Call call);

  const std::unique_ptr<Communicator> group_;
  std::vector<std::chrono::nanoseconds> bounds_;
  std::array<Counts, 3> counts_;
};

}  // namespace octavo
