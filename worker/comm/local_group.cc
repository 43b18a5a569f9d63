#include "worker/comm/local_group.h"

#include <chrono>
#include <cstdint>
#include <cstring>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/mutex.h"
#include "core/base/status.h"

namespace octavo {
namespace {

// One meeting at a time: ranks arrive with a pointer to their bytes; the last to arrive opens the
// gate; each copies what it needs; the last to leave clears the table for the next meeting.
class Meeting {
 public:
  explicit Meeting(int size) : size_(size), parts_(size) {}

  int size() const { return size_; }

  // Calls copy(parts) on every rank while all parts are valid.
  template <typename Copy>
  absl::Status Meet(int rank, std::span<const std::byte> part, Copy copy) {
    const auto limit =
        std::chrono::steady_clock::now() + std::chrono::seconds(kCollectiveTimeoutSeconds);
    MutexLock lock(mutex_);
    // Wait until the previous meeting has been left by all.
    OCTAVO_RETURN_IF_ERROR(WaitWhile([&] { return leaving_; }, limit));
    const uint64_t generation = generation_;
    parts_[rank] = part;
    if (++present_ == size_) {
      leaving_ = true;
      changed_.NotifyAll();
    } else {
      OCTAVO_RETURN_IF_ERROR(
          WaitWhile([&] { return !leaving_ && generation_ == generation; }, limit));
    }
    copy(std::span<const std::span<const std::byte>>(parts_));
    if (--present_ == 0) {
      leaving_ = false;
      ++generation_;
      changed_.NotifyAll();
    }
    // The bytes of a rank must stay until everyone has copied them.
    return WaitWhile([&] { return leaving_ && generation_ == generation; }, limit);
  }

  void Abort(const std::string& why) {
    MutexLock lock(mutex_);
    if (!failure_.ok()) return;
    failure_ = MakeError(Reason::kGroupLost, why);
    changed_.NotifyAll();
  }

 private:
  template <typename Condition>
  absl::Status WaitWhile(Condition condition, std::chrono::steady_clock::time_point limit) {
    while (failure_.ok() && condition()) {
      const auto now = std::chrono::steady_clock::now();
      if (now >= limit) {
        failure_ = MakeError(Reason::kGroupLost, "a rank did not join a collective in time");
        changed_.NotifyAll();
        break;
      }
      changed_.WaitFor(mutex_, limit - now);
    }
    return failure_;
  }

  const int size_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<std::span<const std::byte>> parts_;
  int present_ = 0;
  bool leaving_ = false;
  uint64_t generation_ = 0;
  absl::Status failure_;
};

class LocalRank final : public Communicator {
 public:
  LocalRank(std::shared_ptr<Meeting> meeting, int rank)
      : meeting_(std::move(meeting)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return meeting_->size(); }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    OCTAVO_CHECK(all.size() == mine.size() * static_cast<size_t>(size()));
    return meeting_->Meet(rank_, mine, [&](auto parts) {
      for (size_t i = 0; i < parts.size(); ++i) {
        std::byte* to = all.data() + i * mine.size();
        if (!parts[i].empty() && to != parts[i].data()) {
          std::memcpy(to, parts[i].data(), parts[i].size());
        }
      }
    });
  }

  absl::Status Broadcast(std::span<std::byte> data, int root) override {
    return meeting_->Meet(rank_, data, [&](auto parts) {
      if (rank_ != root && !data.empty()) {
        std::memcpy(data.data(), parts[root].data(), data.size());
      }
    });
  }

  absl::Status Barrier() override {
    return meeting_->Meet(rank_, {}, [](auto) {});
  }

  void Abort(const std::string& why) override { meeting_->Abort(why); }

 private:
  std::shared_ptr<Meeting> meeting_;
  const int rank_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeLocalGroup(int size) {
  auto meeting = std::make_shared<Meeting>(size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.push_back(std::make_unique<LocalRank>(meeting, rank));
  }
  return ranks;
}

}  // namespace octavo
