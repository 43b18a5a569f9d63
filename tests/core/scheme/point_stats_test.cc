// Merging statistics against a plain map of counters, in any order; and what is refused.

#include "core/scheme/point_stats.h"

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using Histogram = std::map<uint32_t, uint64_t>;

v1::PointStat Stat(int layer, int expert, v1::ObservedPoint point, const Histogram& histogram,
                   uint64_t rows) {
  v1::PointStat stat;
  stat.set_layer(layer);
  stat.set_expert(expert);
  stat.set_point(point);
  stat.set_rows(rows);
  for (const auto& [bin, count] : histogram) {
    stat.add_bins(bin);
    stat.add_counts(count);
  }
  if (!histogram.empty()) stat.set_amax_bits(histogram.rbegin()->first << 16);
  return stat;
}

Histogram RandomHistogram(std::mt19937* random) {
  Histogram histogram;
  const uint32_t bins = (*random)() % 50;
  for (uint32_t i = 0; i < bins; ++i) {
    // Few enough places that histograms share some of them.
    const uint32_t bin = 0x3f00 + (*random)() % 100;
    histogram[(*random)() % 20 == 0 ? 0 : bin] += 1 + (*random)() % 1000;
  }
  return histogram;
}

Reason ReasonFor(const v1::PointStat& stat) {
  const absl::Status status = CheckPointStat(stat);
  EXPECT_FALSE(status.ok());
  return status.ok() ? Reason::kInternal : ReasonOf(status);
}

TEST(PointStats, MergingIsCountingAllTogetherInAnyOrder) {
  std::mt19937 random(7);
  using Key = std::tuple<int, int, v1::ObservedPoint>;
  std::map<Key, Histogram> expected;
  std::map<Key, uint64_t> rows;
  std::vector<v1::PointStat> stats;
  for (int i = 0; i < 200; ++i) {
    const Key key = {static_cast<int>(random() % 3), static_cast<int>(random() % 3) - 1,
                     random() % 2 == 0 ? v1::OBSERVED_KEY : v1::OBSERVED_MLP_INPUT};
    const Histogram histogram = RandomHistogram(&random);
    const uint64_t seen = histogram.empty() ? 0 : 1 + random() % 9;
    for (const auto& [bin, count] : histogram) expected[key][bin] += count;
    expected.try_emplace(key);
    rows[key] += seen;
    const auto& [layer, expert, point] = key;
    stats.push_back(Stat(layer, expert, point, histogram, seen));
  }
  std::vector<std::string> wanted;
  for (const auto& [key, histogram] : expected) {
    const auto& [layer, expert, point] = key;
    wanted.push_back(Stat(layer, expert, point, histogram, rows[key]).SerializeAsString());
  }
  for (int order = 0; order < 10; ++order) {
    const auto merged = MergePointStats(stats);
    ASSERT_TRUE(merged.ok()) << merged.status();
    std::vector<std::string> got;
    for (const v1::PointStat& stat : *merged) got.push_back(stat.SerializeAsString());
    EXPECT_EQ(got, wanted);
    // Merging what is half merged, too.
    const std::span<const v1::PointStat> all(stats);
    auto left = MergePointStats(all.first(all.size() / 3));
    const auto right = MergePointStats(all.subspan(all.size() / 3));
    ASSERT_TRUE(left.ok() && right.ok());
    left->insert(left->begin(), right->begin(), right->end());
    const auto both = MergePointStats(*left);
    ASSERT_TRUE(both.ok());
    got.clear();
    for (const v1::PointStat& stat : *both) got.push_back(stat.SerializeAsString());
    EXPECT_EQ(got, wanted);
    std::shuffle(stats.begin(), stats.end(), random);
  }
}

TEST(PointStats, WithoutDistributionsTheMaximumIsTaken) {
  std::vector<v1::PointStat> stats;
  for (const uint32_t amax : {0x3f800000u, 0x40200000u, 0u}) {
    stats.push_back(Stat(1, -1, v1::OBSERVED_VALUE, {}, 4));
    stats.back().set_amax_bits(amax);
  }
  const auto merged = MergePointStats(stats);
  ASSERT_TRUE(merged.ok()) << merged.status();
  ASSERT_EQ(merged->size(), 1u);
  EXPECT_EQ((*merged)[0].amax_bits(), 0x40200000u);
  EXPECT_EQ((*merged)[0].rows(), 12u);
  EXPECT_EQ((*merged)[0].bins_size(), 0);
}

TEST(PointStats, ExpertsMayBeMergedIntoOne) {
  v1::PointStat joint = Stat(2, -1, v1::OBSERVED_MLP_INPUT, {}, 0);
  ASSERT_TRUE(AddPointStat(Stat(2, 0, v1::OBSERVED_MLP_INPUT, {{5 << 7, 3}}, 3), &joint).ok());
  ASSERT_TRUE(AddPointStat(Stat(2, 1, v1::OBSERVED_MLP_INPUT, {{6 << 7, 4}}, 4), &joint).ok());
  EXPECT_EQ(joint.SerializeAsString(),
            Stat(2, -1, v1::OBSERVED_MLP_INPUT, {{5 << 7, 3}, {6 << 7, 4}}, 7).SerializeAsString());
}

TEST(PointStats, CountsDoNotWrapAround) {
  const uint64_t most = std::numeric_limits<uint64_t>::max();
  v1::PointStat into = Stat(0, -1, v1::OBSERVED_KEY, {{0x3f80, most - 1}}, 1);
  const v1::PointStat one = Stat(0, -1, v1::OBSERVED_KEY, {{0x3f80, 1}}, 1);
  ASSERT_TRUE(AddPointStat(one, &into).ok());
  EXPECT_EQ(into.counts(0), most);
  const std::string before = into.SerializeAsString();
  EXPECT_EQ(ReasonOf(AddPointStat(one, &into)), Reason::kCorrupted);
  EXPECT_EQ(into.SerializeAsString(), before);

  v1::PointStat rows = Stat(0, -1, v1::OBSERVED_KEY, {{0x3f80, 1}}, most);
  EXPECT_EQ(ReasonOf(AddPointStat(one, &rows)), Reason::kCorrupted);
  EXPECT_EQ(rows.rows(), most);
}

TEST(PointStats, ADistributionAndNoneDoNotMix) {
  v1::PointStat into = Stat(0, -1, v1::OBSERVED_KEY, {}, 3);
  into.set_amax_bits(0x3f800000u);
  const absl::Status status = AddPointStat(Stat(0, -1, v1::OBSERVED_KEY, {{1 << 7, 1}}, 1), &into);
  EXPECT_EQ(ReasonOf(status), Reason::kCorrupted);
}

TEST(PointStats, DamageIsNamed) {
  const v1::PointStat good = Stat(3, 1, v1::OBSERVED_MLP_INNER, {{0, 4}, {0x3f80, 2}}, 2);
  EXPECT_TRUE(CheckPointStat(good).ok());
  const auto broken = [&](auto change) {
    v1::PointStat stat = good;
    change(&stat);
    return stat;
  };
  const std::vector<v1::PointStat> all = {
      broken([](auto* s) { s->set_amax_bits(0x7f800000u); }),
      broken([](auto* s) { s->set_amax_bits(0x00010000u); }),
      broken([](auto* s) { s->set_amax_bits(0x40000000u); }),
      broken([](auto* s) { s->add_counts(1); }),
      broken([](auto* s) { s->set_counts(0, 0); }),
      broken([](auto* s) { s->set_bins(0, 0x3f80); }),
      broken([](auto* s) { s->set_bins(0, 0x007f); }),
      broken([](auto* s) { s->set_bins(1, 0x7f80); }),
      broken([](auto* s) { s->set_bins(1, 0xffffffffu); }),
  };
  for (const v1::PointStat& stat : all) {
    EXPECT_EQ(ReasonFor(stat), Reason::kCorrupted) << stat.ShortDebugString();
    EXPECT_FALSE(MergePointStats(std::vector{good, stat}).ok());
  }
  EXPECT_EQ(PointName(good), "layer 3, expert 1, MLP_INNER");
  EXPECT_EQ(PointName(Stat(0, -1, v1::OBSERVED_KEY, {}, 0)), "layer 0, KEY");
}

}  // namespace
}  // namespace octavo
