#include "worker/comm/host_group.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstring>
#include <ctime>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/mutex.h"
#include "core/base/pause.h"
#include "core/base/status.h"
#include "fmt/format.h"
#include "worker/comm/shared_region.h"

namespace octavo {
namespace {

using Steady = std::chrono::steady_clock;

constexpr int kRanksMax = 64;
// What a rank says at a time; longer messages take turns. Twice that for each rank is mapped.
constexpr size_t kSeatBytes = 256 << 10;
// Ranks that keep step are some microseconds apart; longer than this is somebody's other work.
constexpr std::chrono::microseconds kSpin{50};
// Between two looks at whether the awaited rank still lives.
constexpr std::chrono::milliseconds kNap{10};

// One rank's count of meetings it has come to. Wraps around.
struct alignas(64) Count {
  std::atomic<uint32_t> value;
  std::atomic<uint32_t> sleepers;
};

// What lies at the region's beginning; seats follow. All zeros at first.
struct alignas(64) Table {
  std::atomic<uint32_t> ended;
  Count counts[kRanksMax];
};
static_assert(std::atomic<uint32_t>::is_always_lock_free);

size_t RegionBytes(int size) { return sizeof(Table) + 2 * kSeatBytes * static_cast<size_t>(size); }

void Sleep(std::atomic<uint32_t>* word, uint32_t while_it_is) {
  const timespec nap{.tv_sec = 0, .tv_nsec = std::chrono::nanoseconds(kNap).count()};
  syscall(SYS_futex, word, FUTEX_WAIT, while_it_is, &nap, nullptr, 0);
}

void Wake(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

// A meeting: every rank fills its seat, counts up, waits for all counts, and reads the seats. There
// are two seats for each rank, used in turn: who comes to meeting n + 2 has seen all counts reach
// n + 1, and a rank counts n + 1 only when it has read all seats of n.
class HostGroup final : public Communicator {
 public:
  HostGroup(std::unique_ptr<SharedRegion> region, int rank, int size)
      : region_(std::move(region)), rank_(rank), size_(size) {}
  ~HostGroup() override { Abort("the group was freed"); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    OCTAVO_CHECK(all.size() == mine.size() * static_cast<size_t>(size_));
    for (size_t at = 0; at < mine.size(); at += kSeatBytes) {
      const size_t bytes = std::min(kSeatBytes, mine.size() - at);
      std::memcpy(Seat(rank_), mine.data() + at, bytes);
      OCTAVO_RETURN_IF_ERROR(Meet());
      for (int peer = 0; peer < size_; ++peer) {
        std::byte* to = all.data() + mine.size() * static_cast<size_t>(peer) + at;
        if (peer != rank_) std::memcpy(to, Seat(peer), bytes);
      }
      ++meeting_;
    }
    std::byte* own = all.data() + mine.size() * static_cast<size_t>(rank_);
    if (own != mine.data() && !mine.empty()) std::memcpy(own, mine.data(), mine.size());
    return Failure();
  }

  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    for (size_t at = 0; at < data.size(); at += kSeatBytes) {
      const size_t bytes = std::min(kSeatBytes, data.size() - at);
      if (rank_ == root) std::memcpy(Seat(rank_), data.data() + at, bytes);
      OCTAVO_RETURN_IF_ERROR(Meet());
      if (rank_ != root) std::memcpy(data.data() + at, Seat(root), bytes);
      ++meeting_;
    }
    return Failure();
  }

  absl::Status Barrier() override {
    OCTAVO_RETURN_IF_ERROR(Meet());
    ++meeting_;
    return absl::OkStatus();
  }

  void Abort(const std::string& why) override {
    {
      MutexLock lock(mutex_);
      if (!failure_.ok()) return;
      failure_ = MakeError(Reason::kGroupLost, why);
    }
    table()->ended.store(1);
    for (int rank = 0; rank < size_; ++rank) Wake(&table()->counts[rank].value);
  }

 private:
  Table* table() const { return reinterpret_cast<Table*>(region_->data()); }

  std::byte* Seat(int rank) const {
    const size_t seat = static_cast<size_t>(rank) * 2 + meeting_ % 2;
    return region_->data() + sizeof(Table) + seat * kSeatBytes;
  }

  // Comes to the present meeting; on return all ranks have, and their seats may be read until
  // meeting_ is counted up.
  absl::Status Meet() {
    OCTAVO_RETURN_IF_ERROR(Failure());
    Count& own = table()->counts[rank_];
    own.value.store(meeting_ + 1);
    if (own.sleepers.load() != 0) Wake(&own.value);
    for (int peer = 0; peer < size_; ++peer) {
      if (peer != rank_) OCTAVO_RETURN_IF_ERROR(Await(peer));
    }
    return absl::OkStatus();
  }

  bool HasCome(int peer) const {
    return static_cast<int32_t>(table()->counts[peer].value.load() - (meeting_ + 1)) >= 0;
  }

  absl::Status Await(int peer) {
    const Steady::time_point begin = Steady::now();
    while (!HasCome(peer)) {
      if (table()->ended.load() != 0 && !HasCome(peer)) {
        return Fail("another rank ended the group");
      }
      if (Steady::now() - begin < kSpin) {
        Pause();
        continue;
      }
      Count& theirs = table()->counts[peer];
      const uint32_t seen = theirs.value.load();
      theirs.sleepers.fetch_add(1);
      if (!HasCome(peer)) Sleep(&theirs.value, seen);
      theirs.sleepers.fetch_sub(1);
      if (HasCome(peer)) break;
      if (!region_->IsHeld(peer)) return Fail(fmt::format("rank {} is gone", peer));
      if (Steady::now() - begin > std::chrono::seconds(kCollectiveTimeoutSeconds)) {
        return Fail(fmt::format("rank {} did not join a collective in time", peer));
      }
    }
    return absl::OkStatus();
  }

  // The first failure stays.
  absl::Status Fail(const std::string& why) {
    Abort(why);
    return Failure();
  }

  absl::Status Failure() {
    MutexLock lock(mutex_);
    return failure_;
  }

  const std::unique_ptr<SharedRegion> region_;
  const int rank_;
  const int size_;
  uint32_t meeting_ = 0;
  Mutex mutex_;
  absl::Status failure_ OCTAVO_GUARDED_BY(mutex_);
};

std::string KeyOf(int rank) { return fmt::format("memory/{}", rank); }

// Rank 0's part: makes the region and learns whether all others have it.
absl::StatusOr<std::unique_ptr<SharedRegion>> Invite(const GroupOptions& options,
                                                     const Rendezvous& rendezvous) {
  std::unique_ptr<SharedRegion> region;
  if (options.collectives == Collectives::kAuto && options.size <= kRanksMax) {
    auto made = SharedRegion::Create(RegionBytes(options.size));
    if (made.ok() && (*made)->Hold(0).ok()) region = *std::move(made);
  }
  OCTAVO_RETURN_IF_ERROR(rendezvous.put(KeyOf(0), region != nullptr ? region->address() : "no"));
  bool all = region != nullptr;
  for (int rank = 1; rank < options.size; ++rank) {
    OCTAVO_ASSIGN_OR_RETURN(const std::string answer,
                            rendezvous.get(KeyOf(rank), options.connect_timeout));
    all = all && answer == "yes";
  }
  OCTAVO_RETURN_IF_ERROR(rendezvous.put("memory", all ? "yes" : "no"));
  if (!all) region.reset();
  return region;
}

// The others' part.
absl::StatusOr<std::unique_ptr<SharedRegion>> Accept(const GroupOptions& options,
                                                     const Rendezvous& rendezvous) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string address,
                          rendezvous.get(KeyOf(0), options.connect_timeout));
  std::unique_ptr<SharedRegion> region;
  if (options.collectives == Collectives::kAuto) {
    auto opened = SharedRegion::Open(address, RegionBytes(options.size));
    if (opened.ok() && (*opened)->Hold(options.rank).ok()) region = *std::move(opened);
  }
  OCTAVO_RETURN_IF_ERROR(rendezvous.put(KeyOf(options.rank), region != nullptr ? "yes" : "no"));
  OCTAVO_ASSIGN_OR_RETURN(const std::string all, rendezvous.get("memory", options.connect_timeout));
  if (all != "yes") region.reset();
  return region;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> MakeHostGroup(const GroupOptions& options,
                                                            const Rendezvous& rendezvous) {
  OCTAVO_ASSIGN_OR_RETURN(std::unique_ptr<SharedRegion> region, options.rank == 0
                                                                    ? Invite(options, rendezvous)
                                                                    : Accept(options, rendezvous));
  std::unique_ptr<Communicator> group;
  if (region != nullptr) {
    group = std::make_unique<HostGroup>(std::move(region), options.rank, options.size);
  }
  return group;
}

}  // namespace octavo
