#include "worker/comm/process_group.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/mutex.h"
#include "gtest/gtest.h"
#include "worker/comm/host_group.h"
#include "worker/comm/shared_region.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using Steady = std::chrono::steady_clock;

absl::Status Timeout() { return MakeError(Reason::kGroupLost, "no such key in time"); }

// A key-value exchange between threads.
class Exchange {
 public:
  Rendezvous callbacks() {
    return {
        .put =
            [this](const std::string& key, const std::string& value) {
              MutexLock lock(mutex_);
              values_[key] = value;
              changed_.NotifyAll();
              return absl::OkStatus();
            },
        .get = [this](const std::string& key, milliseconds timeout) -> absl::StatusOr<std::string> {
          const auto limit = Steady::now() + timeout;
          MutexLock lock(mutex_);
          while (!values_.contains(key)) {
            if (Steady::now() >= limit) return Timeout();
            changed_.WaitFor(mutex_, limit - Steady::now());
          }
          return values_[key];
        }};
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::map<std::string, std::string> values_;
};

// A key-value exchange between processes: one file per key.
Rendezvous FolderRendezvous(const std::filesystem::path& dir) {
  auto path = [dir](std::string key) {
    for (char& c : key) c = c == '/' ? '_' : c;
    return dir / key;
  };
  return {
      .put =
          [path](const std::string& key, const std::string& value) {
            std::ofstream(path(key).string() + ".part") << value;
            std::filesystem::rename(path(key).string() + ".part", path(key));
            return absl::OkStatus();
          },
      .get = [path](const std::string& key, milliseconds timeout) -> absl::StatusOr<std::string> {
        for (const auto limit = Steady::now() + timeout; Steady::now() < limit;) {
          if (std::ifstream file(path(key)); file) {
            std::stringstream text;
            text << file.rdbuf();
            return text.str();
          }
          std::this_thread::sleep_for(milliseconds(1));
        }
        return Timeout();
      }};
}

// Every test but the last few runs over both ways to meet.
class ProcessGroup : public testing::TestWithParam<Collectives> {
 protected:
  // As a program does in main. (TSan does not see how the first of several threads makes spdlog's
  // registry: Debian's spdlog is not instrumented.)
  static void SetUpTestSuite() { ASSERT_TRUE(InitLogging("process_group_test", "info").ok()); }

  static GroupOptions Options(int rank, int size) {
    return {.rank = rank, .size = size, .collectives = GetParam()};
  }

  template <typename Body>
  static void OnEveryRank(int size, Body body) {
    Exchange exchange;
    const Rendezvous rendezvous = exchange.callbacks();
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < size; ++rank) {
      threads.emplace_back([&, rank] {
        auto group = MakeProcessGroup(Options(rank, size), rendezvous);
        ASSERT_TRUE(group.ok()) << group.status();
        body(**group);
      });
    }
  }
};

INSTANTIATE_TEST_SUITE_P(, ProcessGroup, testing::Values(Collectives::kAuto, Collectives::kTcp),
                         [](const auto& way) {
                           return way.param == Collectives::kAuto ? "Memory" : "Tcp";
                         });

absl::Status GatherInts(Communicator& me, int mine, std::vector<int>& all) {
  all.assign(static_cast<size_t>(me.size()), -1);
  return me.AllGather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
}

TEST_P(ProcessGroup, GathersAndBroadcasts) {
  for (int size : {1, 2, 3}) {
    OnEveryRank(size, [size](Communicator& me) {
      std::vector<int> all;
      for (int round = 0; round < 200; ++round) {
        ASSERT_TRUE(GatherInts(me, me.rank() * 1000 + round, all).ok());
        for (int i = 0; i < size; ++i) ASSERT_EQ(all[i], i * 1000 + round);
        int value = me.rank() == round % size ? round : -1;
        ASSERT_TRUE(me.Broadcast(std::as_writable_bytes(std::span(&value, 1)), round % size).ok());
        ASSERT_EQ(value, round);
      }
      ASSERT_TRUE(me.Barrier().ok());
    });
  }
}

TEST_P(ProcessGroup, CarriesLargeParts) {
  OnEveryRank(2, [](Communicator& me) {
    const size_t count = 3'000'001;
    std::vector<std::byte> all(count * 2);
    const std::vector<std::byte> mine(count, std::byte(me.rank() + 1));
    ASSERT_TRUE(me.AllGather(mine, all).ok());
    EXPECT_EQ(all.front(), std::byte{1});
    EXPECT_EQ(all[count - 1], std::byte{1});
    EXPECT_EQ(all[count], std::byte{2});
    EXPECT_EQ(all.back(), std::byte{2});
  });
}

TEST_P(ProcessGroup, AbortFreesThisRankAndItsPeers) {
  OnEveryRank(3, [](Communicator& me) {
    ASSERT_TRUE(me.Barrier().ok());
    const auto start = Steady::now();
    std::jthread aborter;
    if (me.rank() == 1) {
      aborter = std::jthread([&] {
        std::this_thread::sleep_for(milliseconds(50));
        me.Abort("told to stop");
      });
    }
    // Rank 2 never joins: 0 and 1 block.
    if (me.rank() != 2) {
      std::vector<int> all;
      const absl::Status status = GatherInts(me, 1, all);
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(ReasonOf(status), Reason::kGroupLost);
    } else {
      std::this_thread::sleep_for(milliseconds(200));
    }
    EXPECT_LT(Steady::now() - start, std::chrono::seconds(2));
    EXPECT_FALSE(me.rank() != 2 && me.Barrier().ok());
  });
}

TEST_P(ProcessGroup, AMissingPeerIsAnError) {
  Exchange exchange;
  GroupOptions options = Options(0, 2);
  options.connect_timeout = milliseconds(200);
  auto group = MakeProcessGroup(options, exchange.callbacks());
  ASSERT_FALSE(group.ok());
  EXPECT_EQ(ReasonOf(group.status()), Reason::kGroupLost);
}

TEST_P(ProcessGroup, AKilledProcessEndsTheCollective) {
  char dir[] = "/tmp/octavo_group_XXXXXX";
  ASSERT_NE(mkdtemp(dir), nullptr);
  const pid_t child = fork();
  if (child == 0) {
    auto group = MakeProcessGroup(Options(1, 2), FolderRendezvous(dir));
    if (group.ok()) (void)(*group)->Barrier();
    pause();
    _exit(0);
  }
  auto group = MakeProcessGroup(Options(0, 2), FolderRendezvous(dir));
  ASSERT_TRUE(group.ok()) << group.status();
  ASSERT_TRUE((*group)->Barrier().ok());
  std::jthread killer([child] {
    std::this_thread::sleep_for(milliseconds(50));
    kill(child, SIGKILL);
  });
  const auto start = Steady::now();
  const absl::Status status = (*group)->Barrier();
  EXPECT_EQ(ReasonOf(status), Reason::kGroupLost);
  EXPECT_LT(Steady::now() - start, std::chrono::seconds(2));
  waitpid(child, nullptr, 0);
  std::filesystem::remove_all(dir);
}

// Messages of any length, one after the other, with ranks that fall behind at random.
TEST_P(ProcessGroup, LengthsAndSpeedsMayVary) {
  OnEveryRank(3, [](Communicator& me) {
    std::mt19937 lengths(7);
    std::mt19937 own(static_cast<unsigned>(me.rank()));
    for (int round = 0; round < 60; ++round) {
      const size_t bytes = lengths() % (lengths() % 4 == 0 ? 1'000'000 : 300);
      if (own() % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(own() % 3000));
      std::vector<std::byte> all(bytes * 3);
      // In place: a rank's own part is what it says.
      const auto mine = std::span(all).subspan(bytes * static_cast<size_t>(me.rank()), bytes);
      for (size_t i = 0; i < bytes; ++i) mine[i] = std::byte(i * 7 + round + me.rank());
      ASSERT_TRUE(me.AllGather(mine, all).ok());
      for (size_t i = 0; i < all.size(); ++i) {
        ASSERT_EQ(all[i], std::byte(i % bytes * 7 + round + i / bytes)) << round << " " << i;
      }
      if (round % 5 != 0) continue;
      ASSERT_TRUE(me.Barrier().ok());
    }
  });
}

// One rank that was told to use sockets is enough: none gets memory, and all agree.
TEST(HostGroup, IsForAllRanksOrForNone) {
  for (const int odd : {-1, 0, 2}) {
    Exchange exchange;
    const Rendezvous rendezvous = exchange.callbacks();
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < 3; ++rank) {
      threads.emplace_back([&, rank] {
        const Collectives way = rank == odd ? Collectives::kTcp : Collectives::kAuto;
        auto group = MakeHostGroup({.rank = rank, .size = 3, .collectives = way}, rendezvous);
        ASSERT_TRUE(group.ok()) << group.status();
        EXPECT_EQ(*group != nullptr, odd == -1) << rank;
      });
    }
  }
}

TEST(SharedRegion, IsFoundByItsAddressOnly) {
  const auto made = SharedRegion::Create(1000);
  ASSERT_TRUE(made.ok()) << made.status();
  const std::string address = (*made)->address();
  const auto opened = SharedRegion::Open(address, 1000);
  ASSERT_TRUE(opened.ok()) << opened.status();
  (*made)->data()[999] = std::byte{42};
  EXPECT_EQ((*opened)->data()[999], std::byte{42});
  // Another nonce, another size, another file of the process, no process, nonsense.
  const std::string wrong[] = {address + "1", std::to_string(getpid()) + " 0 1", "999999999 3 1",
                               "no", ""};
  for (const std::string& other : wrong)
    EXPECT_FALSE(SharedRegion::Open(other, 1000).ok()) << other;
  EXPECT_FALSE(SharedRegion::Open(address, 1001).ok());
}

TEST(SharedRegion, AChairIsHeldAsLongAsItsHolderLives) {
  auto made = SharedRegion::Create(1000);
  ASSERT_TRUE(made.ok()) << made.status();
  auto other = SharedRegion::Open((*made)->address(), 1000);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_FALSE((*made)->IsHeld(1));
  ASSERT_TRUE((*other)->Hold(1).ok());
  EXPECT_TRUE((*made)->IsHeld(1));
  EXPECT_FALSE((*made)->IsHeld(0));
  EXPECT_FALSE((*made)->Hold(1).ok());
  other->reset();
  EXPECT_FALSE((*made)->IsHeld(1));
}

}  // namespace
}  // namespace octavo
