// Observers against counting by hand, whatever the cut, the order and the instruction set.

#include "worker/quant/observer.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/scheme/point_stats.h"
#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/float_bits.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

std::vector<Isa> Isas() {
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (IsSupported(isa)) isas.push_back(isa);
  }
  return isas;
}

// Every finite pattern comes, subnormals and both zeros among them, with the crowd around one.
std::vector<uint16_t> RandomValues(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<uint16_t> values(count);
  for (uint16_t& value : values) {
    value = Bf16FromF32(normal(random));
    if (random() % 4 == 0) {
      do value = static_cast<uint16_t>(random());
      while (!IsFiniteAmax(MagnitudeBitsOfBf16(value)));
    }
  }
  return values;
}

v1::PointStat ByHand(const std::vector<uint16_t>& values, uint64_t rows, bool counts) {
  std::map<uint32_t, uint64_t> bins;
  uint32_t amax = 0;
  for (const uint16_t value : values) {
    const uint32_t bin = value & 0x7fffu;
    ++bins[bin < 0x80 ? 0 : bin];
    if (bin >= 0x80) amax = std::max(amax, bin << 16);
  }
  v1::PointStat stat;
  stat.set_amax_bits(amax);
  stat.set_rows(rows);
  for (const auto& [bin, count] : bins) {
    if (!counts) break;
    stat.add_bins(bin);
    stat.add_counts(count);
  }
  return stat;
}

TEST(PointObserver, CountsEveryMagnitudeWhateverTheShape) {
  for (const Isa isa : Isas()) {
    for (const int64_t columns : {1, 3, 4, 17, 64, 577}) {
      for (const v1::Observer kind :
           {v1::OBSERVER_ABSMAX, v1::OBSERVER_PERCENTILE, v1::OBSERVER_MSE}) {
        const int64_t rows = 23;
        const std::vector<uint16_t> values =
            RandomValues(static_cast<size_t>(rows * columns), static_cast<uint32_t>(columns));
        // Rows lie apart, a NaN in the gap: it is not to be looked at.
        const int64_t stride = columns + 5;
        std::vector<uint16_t> apart(static_cast<size_t>(rows * stride), 0x7fc0);
        for (int64_t row = 0; row < rows; ++row) {
          std::copy_n(values.begin() + row * columns, columns, apart.begin() + row * stride);
        }
        PointObserver observer(kind, isa);
        EXPECT_EQ(observer.Add(apart.data(), rows, columns, stride), std::nullopt);
        const v1::PointStat stat = observer.ToStat();
        EXPECT_EQ(stat.SerializeAsString(),
                  ByHand(values, rows, kind != v1::OBSERVER_ABSMAX).SerializeAsString());
        EXPECT_TRUE(CheckPointStat(stat).ok()) << CheckPointStat(stat);
        EXPECT_EQ(observer.counter_bytes(),
                  kind == v1::OBSERVER_ABSMAX ? 0 : PointObserver::kCounterBytes);
      }
    }
  }
}

TEST(PointObserver, CutsThreadsAndOrderDoNotShow) {
  const int64_t rows = 240, columns = 96;
  const std::vector<uint16_t> values = RandomValues(rows * columns, 5);
  const std::string expected = ByHand(values, rows, true).SerializeAsString();
  std::mt19937 random(11);
  for (int trial = 0; trial < 8; ++trial) {
    std::vector<int64_t> cuts = {0, rows};
    for (int i = 0; i < 5; ++i) cuts.push_back(static_cast<int64_t>(random() % (rows + 1)));
    std::sort(cuts.begin(), cuts.end());
    std::vector<PointObserver> parts;
    std::vector<std::jthread> threads;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
      parts.emplace_back(v1::OBSERVER_MSE, Isas()[random() % Isas().size()]);
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      threads.emplace_back([&, i] {
        EXPECT_EQ(parts[i].Add(values.data() + cuts[i] * columns, cuts[i + 1] - cuts[i], columns,
                               columns),
                  std::nullopt);
      });
    }
    threads.clear();
    std::shuffle(parts.begin(), parts.end(), random);
    PointObserver whole(v1::OBSERVER_MSE, Isa::kReference);
    std::vector<v1::PointStat> stats;
    for (const PointObserver& part : parts) {
      whole.Merge(part);
      stats.push_back(part.ToStat());
    }
    EXPECT_EQ(whole.ToStat().SerializeAsString(), expected);
    const auto merged = MergePointStats(stats);
    ASSERT_TRUE(merged.ok()) << merged.status();
    ASSERT_EQ(merged->size(), 1u);
    EXPECT_EQ((*merged)[0].SerializeAsString(), expected);
  }
}

TEST(PointObserver, SubnormalsAndZerosAreZero) {
  const std::vector<uint16_t> values = {0x0000, 0x8000, 0x0001, 0x807f, 0x0040};
  for (const Isa isa : Isas()) {
    PointObserver observer(v1::OBSERVER_PERCENTILE, isa);
    ASSERT_EQ(observer.Add(values.data(), 1, 5, 5), std::nullopt);
    const v1::PointStat stat = observer.ToStat();
    EXPECT_EQ(stat.amax_bits(), 0u);
    ASSERT_EQ(stat.bins_size(), 1);
    EXPECT_EQ(stat.bins(0), 0u);
    EXPECT_EQ(stat.counts(0), 5u);
  }
}

TEST(PointObserver, NothingSeenIsNothing) {
  PointObserver observer(v1::OBSERVER_MSE, Isa::kReference);
  EXPECT_EQ(observer.Add(nullptr, 0, 64, 64), std::nullopt);
  EXPECT_EQ(observer.ToStat().SerializeAsString(), "");
  EXPECT_EQ(observer.counter_bytes(), 0u);
}

TEST(PointObserver, TheFirstNonFiniteValueIsFound) {
  for (const Isa isa : Isas()) {
    for (const uint16_t bad : {0x7f80, 0xff80, 0x7fc0, 0xff81}) {
      std::vector<uint16_t> values = RandomValues(10 * 50, 3);
      values[4 * 50 + 41] = bad;
      values[4 * 50 + 49] = 0x7f80;
      values[7 * 50] = 0x7fc0;
      PointObserver observer(v1::OBSERVER_MSE, isa);
      const std::optional<NonFiniteValue> found = observer.Add(values.data(), 10, 50, 50);
      ASSERT_TRUE(found.has_value());
      EXPECT_EQ(found->row, 4);
      EXPECT_EQ(found->column, 41);
      EXPECT_EQ(found->is_nan, (bad & 0x7f) != 0);
      EXPECT_EQ(observer.ToStat().rows(), 4u);
      EXPECT_TRUE(CheckPointStat(observer.ToStat()).ok());
    }
  }
}

}  // namespace
}  // namespace octavo
