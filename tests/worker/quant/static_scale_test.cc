// Static scales against sorting the raw values and trying every range in plain arithmetic.

#include "worker/quant/static_scale.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "core/base/error.h"
#include "core/scheme/point_stats.h"
#include "core/tensor/bare/amax.h"
#include "gtest/gtest.h"
#include "worker/quant/observer.h"

namespace octavo {
namespace {

v1::Calibration Calibration(v1::Observer observer, double percentile = 0) {
  v1::Calibration calibration;
  calibration.set_observer(observer);
  calibration.set_percentile(percentile);
  return calibration;
}

v1::PointStat StatOf(const std::vector<uint16_t>& values) {
  PointObserver observer(v1::OBSERVER_MSE, Isa::kReference);
  EXPECT_EQ(observer.Add(values.data(), 1, static_cast<int64_t>(values.size()), 0), std::nullopt);
  return observer.ToStat();
}

std::vector<uint16_t> Bf16(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(Bf16FromF32(value));
  return bits;
}

// A crowd with a tail, as activations have.
std::vector<uint16_t> RandomValues(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::student_t_distribution<float> tail(3.0f);
  std::vector<float> values(count);
  for (float& value : values) value = tail(random);
  return Bf16(values);
}

std::vector<uint16_t> Crowd(size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 1.0f);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return Bf16(values);
}

std::vector<float> SortedMagnitudes(const std::vector<uint16_t>& values) {
  std::vector<float> magnitudes;
  for (const uint16_t value : values) {
    magnitudes.push_back(FloatFromBits(MagnitudeBitsOfBf16(value)));
  }
  std::sort(magnitudes.begin(), magnitudes.end());
  return magnitudes;
}

float ScaleOf(const v1::PointStat& stat, const v1::Calibration& calibration, CodeType code,
              DType stored) {
  const auto scale = StaticScale(stat, calibration, code, stored);
  EXPECT_TRUE(scale.ok()) << scale.status();
  return scale.ok() ? *scale : std::numeric_limits<float>::quiet_NaN();
}

// The nearest code, found by looking at all of them.
double Nearest(double x, CodeType code) {
  static const std::vector<double> fp8 = [] {
    std::vector<double> all;
    for (int i = 0; i < 127; ++i) all.push_back(F32FromFp8(static_cast<uint8_t>(i)));
    return all;
  }();
  if (code == CodeType::kInt8) return std::min(std::nearbyint(x), 127.0);
  size_t best = 0;
  for (size_t i = 1; i < fp8.size(); ++i) {
    const double better = std::fabs(x - fp8[best]) - std::fabs(x - fp8[i]);
    if (better > 0 || (better == 0 && i % 2 == 0)) best = i;
  }
  return fp8[best];
}

TEST(StaticScale, AbsmaxIsOneDivisionRoundedOnce) {
  const v1::PointStat stat = StatOf(RandomValues(5000, 1));
  const float amax = FloatFromBits(stat.amax_bits());
  const v1::Calibration absmax = Calibration(v1::OBSERVER_ABSMAX);
  EXPECT_EQ(ScaleOf(stat, absmax, CodeType::kFp8, DType::kF32), amax / 448.0f);
  EXPECT_EQ(ScaleOf(stat, absmax, CodeType::kInt8, DType::kF32), amax / 127.0f);
  EXPECT_EQ(ScaleOf(stat, absmax, CodeType::kFp8, DType::kBF16),
            F32FromBf16(Bf16FromF32(amax / 448.0f)));
  EXPECT_EQ(ScaleOf(stat, absmax, CodeType::kFp8, DType::kF16),
            F32FromF16(F16FromF32(amax / 448.0f)));
}

TEST(StaticScale, PercentilesAgainstSorting) {
  for (const size_t count : {1u, 2u, 7u, 100u, 1000u, 4096u}) {
    const std::vector<uint16_t> values = RandomValues(count, static_cast<uint32_t>(count));
    const v1::PointStat stat = StatOf(values);
    const std::vector<float> sorted = SortedMagnitudes(values);
    // Numerators over 1000 of one percent, so that the expected rank is integer arithmetic.
    for (const uint64_t thousandths : {1u, 333u, 10000u, 50000u, 99000u, 99900u, 99999u, 100000u}) {
      const uint64_t rank = (thousandths * count + 99999) / 100000;
      const float range = sorted[rank - 1];
      ASSERT_GT(range, 0);
      const double percentile = static_cast<double>(thousandths) / 1000.0;
      EXPECT_EQ(ScaleOf(stat, Calibration(v1::OBSERVER_PERCENTILE, percentile), CodeType::kFp8,
                        DType::kF32),
                range / 448.0f)
          << percentile << " percent of " << count;
    }
    // Above zero, but less than one value: the smallest; and no value is more than the largest.
    EXPECT_EQ(
        ScaleOf(stat, Calibration(v1::OBSERVER_PERCENTILE, 1e-12), CodeType::kFp8, DType::kF32),
        sorted.front() / 448.0f);
    EXPECT_EQ(ScaleOf(stat, Calibration(v1::OBSERVER_PERCENTILE, 100), CodeType::kFp8, DType::kF32),
              sorted.back() / 448.0f);
  }
}

TEST(StaticScale, APercentileOfHugeCountsIsExact) {
  // 99.9 percent of ten times 2^60 values end exactly with the second bin, and not one earlier.
  v1::PointStat stat;
  stat.set_rows(1);
  stat.set_amax_bits(0x40000000u);
  const uint64_t unit = 1ull << 53;
  for (const auto& [bin, count] :
       std::map<uint32_t, uint64_t>{{0x3f00, 500 * unit}, {0x3f80, 499 * unit}, {0x4000, unit}}) {
    stat.add_bins(bin);
    stat.add_counts(count);
  }
  const v1::Calibration calibration = Calibration(v1::OBSERVER_PERCENTILE, 99.9);
  EXPECT_EQ(ScaleOf(stat, calibration, CodeType::kFp8, DType::kF32), 1.0f / 448.0f);
  stat.set_counts(1, 499 * unit - 1);
  EXPECT_EQ(ScaleOf(stat, calibration, CodeType::kFp8, DType::kF32), 2.0f / 448.0f);
}

TEST(StaticScale, APercentileThatIsZeroKeepsTheLargest) {
  std::vector<float> values(1000, 0.0f);
  values[3] = -6.0f;
  EXPECT_EQ(ScaleOf(StatOf(Bf16(values)), Calibration(v1::OBSERVER_PERCENTILE, 99), CodeType::kFp8,
                    DType::kF32),
            6.0f / 448.0f);
}

TEST(StaticScale, MseAgainstEveryRangeAndEveryValue) {
  for (const CodeType code : {CodeType::kFp8, CodeType::kInt8}) {
    for (const DType stored : {DType::kF32, DType::kBF16}) {
      // For evenly spaced codes a crowd with one outlier, which is worth clipping.
      std::vector<uint16_t> values =
          code == CodeType::kFp8 ? RandomValues(3000, 17) : Crowd(100000);
      if (code == CodeType::kInt8) values[9] = Bf16FromF32(12.0f);
      const float amax = SortedMagnitudes(values).back();
      float best_scale = 0;
      double best = std::numeric_limits<double>::infinity();
      for (int percent = 100; percent >= 1; --percent) {
        float scale = amax * static_cast<float>(percent / 100.0) / CodeMax(code);
        if (stored == DType::kBF16) scale = F32FromBf16(Bf16FromF32(scale));
        double sum = 0;
        for (const uint16_t value : values) {
          const double x = std::fabs(F32FromBf16(value));
          const double q = Nearest(static_cast<float>(x) * (1.0f / scale), code) * scale;
          sum += (x - q) * (x - q);
        }
        // Sums of another order: what is smaller by rounding alone does not count.
        if (sum < best * (1 - 1e-12)) {
          best = sum;
          best_scale = scale;
        }
      }
      const float scale = ScaleOf(StatOf(values), Calibration(v1::OBSERVER_MSE), code, stored);
      EXPECT_EQ(scale, best_scale);
      if (code == CodeType::kInt8) {
        EXPECT_LT(scale, 0.9f * amax / CodeMax(code));
      }
    }
  }
}

TEST(StaticScale, MseTiesGoToTheLargerRange) {
  // One magnitude: every range that reaches it with a code of its own has no error; 1.00 is first.
  const v1::PointStat stat = StatOf(Bf16({448.0f, -448.0f}));
  EXPECT_EQ(ScaleOf(stat, Calibration(v1::OBSERVER_MSE), CodeType::kFp8, DType::kF32), 1.0f);
}

TEST(StaticScale, ZerosAndTheSmallestNumbers) {
  const v1::PointStat zeros = StatOf(Bf16({0.0f, -0.0f, 0x1p-130f}));
  const v1::PointStat tiny = StatOf(Bf16({0x1p-126f, -0x1p-126f}));
  for (const v1::Observer kind : {v1::OBSERVER_ABSMAX, v1::OBSERVER_PERCENTILE, v1::OBSERVER_MSE}) {
    const v1::Calibration calibration = Calibration(kind, 99.5);
    for (const DType stored : {DType::kF32, DType::kBF16}) {
      EXPECT_EQ(ScaleOf(zeros, calibration, CodeType::kFp8, stored), 1.0f);
      EXPECT_EQ(ScaleOf(tiny, calibration, CodeType::kFp8, stored), 0x1p-126f);
    }
  }
}

TEST(StaticScale, WhatItRefuses) {
  const v1::PointStat good = StatOf(Bf16({1.0f, 2.0f}));
  const auto reason = [](const v1::PointStat& stat, const v1::Calibration& calibration,
                         DType stored = DType::kF32) {
    const auto scale = StaticScale(stat, calibration, CodeType::kFp8, stored);
    EXPECT_FALSE(scale.ok());
    return scale.ok() ? Reason::kInternal : ReasonOf(scale.status());
  };
  const v1::Calibration absmax = Calibration(v1::OBSERVER_ABSMAX);
  EXPECT_EQ(reason(v1::PointStat(), absmax), Reason::kBadData);
  EXPECT_EQ(reason(good, absmax, DType::kF8E4M3), Reason::kUnsupported);
  EXPECT_EQ(reason(good, v1::Calibration()), Reason::kBadRecipe);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double percentile : {0.0, -1.0, 100.001, nan}) {
    EXPECT_EQ(reason(good, Calibration(v1::OBSERVER_PERCENTILE, percentile)), Reason::kBadRecipe);
  }
  v1::PointStat no_counts = good;
  no_counts.clear_bins();
  no_counts.clear_counts();
  EXPECT_EQ(ScaleOf(no_counts, absmax, CodeType::kFp8, DType::kF32), 2.0f / 448.0f);
  EXPECT_EQ(reason(no_counts, Calibration(v1::OBSERVER_MSE)), Reason::kCorrupted);
  EXPECT_EQ(reason(no_counts, Calibration(v1::OBSERVER_PERCENTILE, 99)), Reason::kCorrupted);
  v1::PointStat damaged = good;
  damaged.set_amax_bits(0x7f800000u);
  EXPECT_EQ(reason(damaged, absmax), Reason::kCorrupted);
}

// All magnitudes of BF16 that a maximum may have.
TEST(StaticScale, FollowsTheFormulaOfAMode) {
  const auto bf16 = [](double x) {
    return static_cast<double>(F32FromBf16(Bf16FromF32(static_cast<float>(x))));
  };
  for (uint32_t bits = 0x0080; bits < 0x7f80; ++bits) {
    v1::PointStat stat;
    stat.set_rows(1);
    stat.set_amax_bits(bits << 16);
    const double amax = FloatFromBits(bits << 16);
    const auto scale = [&](v1::Compat compat, DType stored) {
      return *StaticScale(stat, Calibration(v1::OBSERVER_ABSMAX), CodeType::kFp8, stored,
                          CompatModeOf(compat));
    };
    // Below 2^-126 a scale is 2^-126.
    const double quotient = std::max(bf16(amax / 448), 0x1p-126);
    ASSERT_EQ(scale(v1::COMPAT_QUARK_2024, DType::kF32), quotient) << amax;
    ASSERT_EQ(scale(v1::COMPAT_QUARK_0_13, DType::kBF16), quotient) << amax;
    if (amax > 0x1p+120) continue;  // reciprocals that BF16 does not hold
    const double factor = bf16(bf16(1 / std::max(amax, bf16(1e-12))) * 448);
    ASSERT_EQ(scale(v1::COMPAT_AUTOFP8, DType::kF32), static_cast<float>(1 / factor)) << amax;
  }
}

}  // namespace
}  // namespace octavo
