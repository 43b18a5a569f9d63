#include "worker/comm/gloo_group.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/mutex.h"
#include "gtest/gtest.h"

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

template <typename Body>
void OnEveryRank(int size, Body body) {
  Exchange exchange;
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      auto group =
          MakeGlooGroup({.rank = rank, .size = size, .host = "127.0.0.1"}, exchange.callbacks());
      ASSERT_TRUE(group.ok()) << group.status();
      body(**group);
    });
  }
}

absl::Status GatherInts(Communicator& me, int mine, std::vector<int>& all) {
  all.assign(static_cast<size_t>(me.size()), -1);
  return me.AllGather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)));
}

TEST(GlooGroup, GathersAndBroadcasts) {
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

TEST(GlooGroup, CarriesLargeParts) {
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

TEST(GlooGroup, AbortFreesThisRankAndItsPeers) {
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

TEST(GlooGroup, AMissingPeerIsAnError) {
  Exchange exchange;
  auto group = MakeGlooGroup(
      {.rank = 0, .size = 2, .host = "127.0.0.1", .connect_timeout = milliseconds(200)},
      exchange.callbacks());
  ASSERT_FALSE(group.ok());
  EXPECT_EQ(ReasonOf(group.status()), Reason::kGroupLost);
}

TEST(GlooGroup, AKilledProcessEndsTheCollective) {
  char dir[] = "/tmp/octavo_gloo_XXXXXX";
  ASSERT_NE(mkdtemp(dir), nullptr);
  const pid_t child = fork();
  if (child == 0) {
    auto group = MakeGlooGroup({.rank = 1, .size = 2, .host = "127.0.0.1"}, FolderRendezvous(dir));
    if (group.ok()) (void)(*group)->Barrier();
    pause();
    _exit(0);
  }
  auto group = MakeGlooGroup({.rank = 0, .size = 2, .host = "127.0.0.1"}, FolderRendezvous(dir));
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

}  // namespace
}  // namespace octavo
