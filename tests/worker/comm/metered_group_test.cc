#include "worker/comm/metered_group.h"

#include <numeric>
#include <thread>

#include "core/base/error.h"
#include "gtest/gtest.h"
#include "worker/comm/local_group.h"

namespace octavo {
namespace {

constexpr double kBounds[] = {0.02, 10};

TEST(MeteredGroup, CountsWhatPassesThrough) {
  auto group = MakeLocalGroup(2);
  MeteredGroup first(std::move(group[0]), kBounds);
  MeteredGroup second(std::move(group[1]), kBounds);
  EXPECT_EQ(second.rank(), 1);
  EXPECT_EQ(second.size(), 2);
  const auto work = [](MeteredGroup& me, int late_ms) {
    for (int round = 0; round < 5; ++round) {
      const uint64_t mine = static_cast<uint64_t>(me.rank()) + 40;
      uint64_t all[2] = {};
      // The other waits for this rank, once.
      if (round == 0) std::this_thread::sleep_for(std::chrono::milliseconds(late_ms));
      ASSERT_TRUE(
          me.AllGather(std::as_bytes(std::span(&mine, 1)), std::as_writable_bytes(std::span(all)))
              .ok());
      ASSERT_EQ(all[0], 40u);
      ASSERT_EQ(all[1], 41u);
    }
    ASSERT_TRUE(me.Barrier().ok());
  };
  {
    std::jthread other([&] { work(second, 100); });
    work(first, 0);
  }
  const std::vector<CollectiveFigures> figures = first.figures();
  ASSERT_EQ(figures.size(), 3u);
  EXPECT_EQ(figures[0].op, "all_gather");
  EXPECT_EQ(figures[0].bytes, 5u * 16);
  ASSERT_EQ(figures[0].counts.size(), 3u);
  EXPECT_EQ(std::reduce(figures[0].counts.begin(), figures[0].counts.end()), 5u);
  EXPECT_GE(figures[0].counts[1], 1u);  // the one that waited
  EXPECT_GT(figures[0].nanos, 50'000'000u);
  EXPECT_EQ(figures[1].op, "broadcast");
  EXPECT_EQ(std::reduce(figures[1].counts.begin(), figures[1].counts.end()), 0u);
  EXPECT_EQ(figures[2].op, "barrier");
  EXPECT_EQ(std::reduce(figures[2].counts.begin(), figures[2].counts.end()), 1u);
}

TEST(MeteredGroup, AbortReachesTheGroup) {
  auto group = MakeLocalGroup(2);
  MeteredGroup first(std::move(group[0]), kBounds);
  first.Abort("enough");
  EXPECT_EQ(ReasonOf(first.Barrier()), Reason::kGroupLost);
  EXPECT_EQ(ReasonOf(group[1]->Barrier()), Reason::kGroupLost);
}

}  // namespace
}  // namespace octavo
