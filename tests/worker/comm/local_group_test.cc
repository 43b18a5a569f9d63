#include "worker/comm/local_group.h"

#include <chrono>
#include <cstring>
#include <thread>

#include "core/base/error.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

template <typename Body>
void OnEveryRank(std::vector<std::unique_ptr<Communicator>>& group, Body body) {
  std::vector<std::jthread> threads;
  for (auto& rank : group) threads.emplace_back([&body, &rank] { body(*rank); });
}

TEST(LocalGroup, GathersInRankOrderOverManyRounds) {
  for (int size : {1, 2, 3, 5}) {
    auto group = MakeLocalGroup(size);
    OnEveryRank(group, [size](Communicator& me) {
      for (int round = 0; round < 500; ++round) {
        const int mine = me.rank() * 1000 + round;
        std::vector<int> all(size, -1);
        ASSERT_TRUE(
            me.AllGather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)))
                .ok());
        for (int i = 0; i < size; ++i) ASSERT_EQ(all[i], i * 1000 + round);
      }
    });
  }
}

TEST(LocalGroup, GathersInPlace) {
  auto group = MakeLocalGroup(3);
  OnEveryRank(group, [](Communicator& me) {
    std::vector<int> all(3, -1);
    all[me.rank()] = me.rank() + 7;
    auto bytes = std::as_writable_bytes(std::span(all));
    ASSERT_TRUE(me.AllGather(bytes.subspan(me.rank() * 4, 4), bytes).ok());
    EXPECT_EQ(all, (std::vector<int>{7, 8, 9}));
  });
}

TEST(LocalGroup, BroadcastsFromAnyRoot) {
  auto group = MakeLocalGroup(3);
  OnEveryRank(group, [](Communicator& me) {
    for (int root = 0; root < 3; ++root) {
      int value = me.rank() == root ? 40 + root : -1;
      ASSERT_TRUE(me.Broadcast(std::as_writable_bytes(std::span(&value, 1)), root).ok());
      EXPECT_EQ(value, 40 + root);
      ASSERT_TRUE(me.Barrier().ok());
    }
  });
}

TEST(LocalGroup, AbortWakesBlockedRanksAndLasts) {
  auto group = MakeLocalGroup(3);
  absl::Status statuses[2];
  {
    std::jthread zero([&] { statuses[0] = group[0]->Barrier(); });
    std::jthread one([&] { statuses[1] = group[1]->Barrier(); });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    group[2]->Abort("rank 2 left");
  }
  for (const auto& status : statuses) {
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(ReasonOf(status), Reason::kGroupLost);
    EXPECT_NE(std::string(status.message()).find("rank 2 left"), std::string::npos);
  }
  EXPECT_EQ(ReasonOf(group[2]->Barrier()), Reason::kGroupLost);
}

}  // namespace
}  // namespace octavo
