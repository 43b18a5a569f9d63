#include "worker/comm/metered_group.h"

#include <algorithm>
#include <utility>

namespace octavo {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::nanoseconds;

enum Op : size_t { kAllGather, kBroadcast, kBarrier };
constexpr std::string_view kNames[] = {"all_gather", "broadcast", "barrier"};

// One thread writes: no read-modify-write is needed.
void Count(std::atomic<uint64_t>& figure, uint64_t more) {
  figure.store(figure.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
}

}  // namespace

MeteredGroup::MeteredGroup(std::unique_ptr<Communicator> group, std::span<const double> bounds)
    : group_(std::move(group)) {
  for (const double bound : bounds) bounds_.emplace_back(static_cast<int64_t>(bound * 1e9));
  for (size_t op = 0; op < counts_.size(); ++op) {
    counts_[op].op = kNames[op];
    counts_[op].by_bound = std::vector<std::atomic<uint64_t>>(bounds_.size() + 1);
  }
}

template <typename Call>
absl::Status MeteredGroup::Measure(Counts& counts, uint64_t bytes, Call call) {
  const auto start = Clock::now();
  absl::Status status = call();
  const auto took = std::chrono::duration_cast<nanoseconds>(Clock::now() - start);
  const auto bound = std::ranges::lower_bound(bounds_, took);
  Count(counts.by_bound[static_cast<size_t>(bound - bounds_.begin())], 1);
  Count(counts.bytes, bytes);
  Count(counts.nanos, static_cast<uint64_t>(took.count()));
  return status;
}

absl::Status MeteredGroup::AllGather(std::span<const std::byte> mine, std::span<std::byte> all) {
  return Measure(counts_[kAllGather], all.size(), [&] { return group_->AllGather(mine, all); });
}

absl::Status MeteredGroup::Broadcast(std::span<std::byte> data, int root) {
  return Measure(counts_[kBroadcast], data.size(), [&] { return group_->Broadcast(data, root); });
}

absl::Status MeteredGroup::Barrier() {
  return Measure(counts_[kBarrier], 0, [&] { return group_->Barrier(); });
}

uint64_t MeteredGroup::nanos() const {
  uint64_t sum = 0;
  for (const Counts& counts : counts_) sum += counts.nanos.load(std::memory_order_relaxed);
  return sum;
}

std::vector<CollectiveFigures> MeteredGroup::figures() const {
  std::vector<CollectiveFigures> all;
  for (const Counts& counts : counts_) {
    CollectiveFigures& one = all.emplace_back();
    one.op = counts.op;
    one.bytes = counts.bytes.load(std::memory_order_relaxed);
    one.nanos = counts.nanos.load(std::memory_order_relaxed);
    for (const auto& count : counts.by_bound) {
      one.counts.push_back(count.load(std::memory_order_relaxed));
    }
  }
  return all;
}

}  // namespace octavo
