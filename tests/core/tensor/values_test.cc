// Conversions and roundings of core/tensor/bare against independent F64 arithmetic.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/error_power.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/int8.h"
#include "core/tensor/bare/lane_sum.h"
#include "core/tensor/bare/scale.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

// The value of a small binary format by its definition.
double Decode(uint32_t code, int exponent_bits, int mantissa_bits, int bias) {
  const uint32_t mantissa = code & ((1u << mantissa_bits) - 1);
  const uint32_t exponent = (code >> mantissa_bits) & ((1u << exponent_bits) - 1);
  const double scale = std::ldexp(1.0, -mantissa_bits);
  if (exponent == 0) return std::ldexp(mantissa * scale, 1 - bias);
  return std::ldexp(1.0 + mantissa * scale, static_cast<int>(exponent) - bias);
}

// Nearest entry of an ascending table of magnitudes; ties to the even index. The table is indexed
// by code, so an even index is an even mantissa.
uint32_t NearestCode(const std::vector<double>& table, double magnitude) {
  uint32_t best = 0;
  for (uint32_t code = 1; code < table.size(); ++code) {
    const double old_distance = std::abs(table[best] - magnitude);
    const double distance = std::abs(table[code] - magnitude);
    if (distance < old_distance || (distance == old_distance && code % 2 == 0)) best = code;
  }
  return best;
}

std::vector<double> Fp8Table() {
  std::vector<double> table;
  for (uint32_t code = 0; code <= 0x7e; ++code) table.push_back(Decode(code, 4, 3, 7));
  return table;
}

TEST(Fp8, DecodesByItsDefinition) {
  const std::vector<double> table = Fp8Table();
  EXPECT_EQ(table.back(), 448.0);
  for (uint32_t code = 0; code <= 0x7e; ++code) {
    EXPECT_EQ(F32FromFp8(static_cast<uint8_t>(code)), table[code]);
    EXPECT_EQ(F32FromFp8(static_cast<uint8_t>(code | 0x80)), -table[code]);
    EXPECT_EQ(F32FromBf16(Bf16FromFp8(static_cast<uint8_t>(code))), table[code]);
  }
  EXPECT_TRUE(std::signbit(F32FromFp8(0x80)));
  EXPECT_TRUE(std::isnan(F32FromFp8(0x7f)));
  EXPECT_TRUE(std::isnan(F32FromFp8(0xff)));
}

TEST(Fp8, RoundsToNearestEvenOnEveryBf16AndF16Value) {
  const std::vector<double> table = Fp8Table();
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    for (const float value :
         {F32FromBf16(static_cast<uint16_t>(bits)), F32FromF16(static_cast<uint16_t>(bits))}) {
      const uint8_t code = Fp8FromF32(value);
      if (std::isnan(value)) {
        EXPECT_TRUE(IsFp8Nan(code));
        continue;
      }
      const double magnitude = std::min(std::abs(static_cast<double>(value)), 448.0);
      const uint32_t want = NearestCode(table, magnitude) | (std::signbit(value) ? 0x80u : 0u);
      ASSERT_EQ(code, want) << value;
    }
  }
}

TEST(Fp8, RoundsTiesAndTheirNeighboursRight) {
  const std::vector<double> table = Fp8Table();
  for (uint32_t code = 0; code < 0x7e; ++code) {
    const float middle = static_cast<float>((table[code] + table[code + 1]) / 2);
    for (const float value : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f),
                              static_cast<float>(table[code])}) {
      ASSERT_EQ(Fp8FromF32(value), NearestCode(table, value)) << value;
      ASSERT_EQ(Fp8FromF32(-value), NearestCode(table, value) | 0x80u) << value;
    }
  }
  EXPECT_EQ(Fp8FromF32(1e30f), 0x7e);
  EXPECT_EQ(Fp8FromF32(-std::numeric_limits<float>::infinity()), 0xfe);
  EXPECT_EQ(Fp8FromF32(464.0f), 0x7e);
}

TEST(Int8, ClampsAndRoundsToNearestEven) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> near(-140.0f, 140.0f);
  for (int i = 0; i < 200000; ++i) {
    const float value = i % 3 == 0 ? static_cast<float>(i % 561 - 280) / 2 : near(random);
    const double want = std::clamp(std::nearbyint(static_cast<double>(value)), -127.0, 127.0);
    ASSERT_EQ(Int8FromF32(value), want) << value;
    const double wide = std::clamp(std::nearbyint(static_cast<double>(value)), -128.0, 127.0);
    ASSERT_EQ(Int8FromF32(value, -128), wide) << value;
  }
  EXPECT_EQ(Int8FromF32(1e30f), 127);
  EXPECT_EQ(Int8FromF32(-std::numeric_limits<float>::infinity()), -127);
}

TEST(Bf16, RoundsToNearestEven) {
  std::mt19937 random(2);
  for (int i = 0; i < 300000; ++i) {
    uint32_t bits = random();
    if (i % 4 == 0) bits = (bits & 0xffff0000u) | 0x8000u;  // a tie
    const float value = FloatFromBits(bits);
    const uint16_t got = Bf16FromF32(value);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(F32FromBf16(got)));
      continue;
    }
    const double below = FloatFromBits(bits & 0xffff0000u);
    const uint32_t above_bits = (bits & 0xffff0000u) + 0x10000u;
    if ((above_bits & kF32MagnitudeMask) >= kF32InfBits) continue;
    const double above = FloatFromBits(above_bits);
    const double to_below = std::abs(value - below), to_above = std::abs(above - value);
    const bool up = to_above < to_below || (to_above == to_below && ((bits >> 16) & 1) != 0);
    ASSERT_EQ(got, (up ? above_bits : bits) >> 16) << value;
  }
  EXPECT_EQ(Bf16FromF32(std::numeric_limits<float>::max()), 0x7f80);
}

TEST(F16, ConvertsByItsDefinitionBothWays) {
  std::vector<double> table;
  for (uint32_t code = 0; code < 0x7c00; ++code) {
    table.push_back(Decode(code, 5, 10, 15));
    ASSERT_EQ(F32FromF16(static_cast<uint16_t>(code)), table.back());
    ASSERT_EQ(F32FromF16(static_cast<uint16_t>(code | 0x8000)), -table.back());
    ASSERT_EQ(F16FromF32(static_cast<float>(table.back())), code);
  }
  for (uint32_t code = 0; code + 1 < 0x7c00; ++code) {
    const float middle = static_cast<float>((table[code] + table[code + 1]) / 2);
    ASSERT_EQ(F16FromF32(middle), code + code % 2);
    ASSERT_EQ(F16FromF32(std::nextafter(middle, 0.0f)), code);
    ASSERT_EQ(F16FromF32(-std::nextafter(middle, 1e9f)), (code + 1) | 0x8000u);
  }
  EXPECT_EQ(F16FromF32(65519.99f), 0x7bff);
  EXPECT_EQ(F16FromF32(65520.0f), 0x7c00);
  EXPECT_TRUE(std::isinf(F32FromF16(0x7c00)));
  EXPECT_TRUE(std::isnan(F32FromF16(F16FromF32(std::nanf("")))));
}

TEST(Amax, CountsF32SubnormalsAsZeroAndKeepsOrder) {
  EXPECT_EQ(MagnitudeBitsOfBf16(0x807f), 0u);
  EXPECT_EQ(MagnitudeBitsOfBf16(0x8080), kF32MinNormalBits);
  EXPECT_EQ(MagnitudeBitsOfF32(0x807fffffu), 0u);
  EXPECT_EQ(FloatFromBits(MagnitudeBitsOfF16(0x8001)), 0x1p-24f);
  EXPECT_FALSE(IsFiniteAmax(MagnitudeBitsOfF16(0xfc00)));
  EXPECT_FALSE(IsFiniteAmax(MagnitudeBitsOfBf16(0x7fc0)));
  EXPECT_TRUE(IsFiniteAmax(MagnitudeBitsOfBf16(0x7f7f)));
}

TEST(Scale, IsRoundedOnceAndNeverZero) {
  EXPECT_EQ(WeightScale(BitsOf(448.0f), kFp8Max, SourceType::kF32), 1.0f);
  EXPECT_EQ(WeightScale(0, kFp8Max, SourceType::kBf16), 1.0f);
  EXPECT_EQ(WeightScale(kF32MinNormalBits, kFp8Max, SourceType::kF32), kF32MinNormal);
  EXPECT_EQ(WeightScale(kF32MinNormalBits, kFp8Max, SourceType::kBf16), kF32MinNormal);
  EXPECT_EQ(WeightScale(BitsOf(1e-8f), kFp8Max, SourceType::kF16), 0x1p-24f);
  EXPECT_EQ(RoundScale(1e9f, SourceType::kF16), 65504.0f);
  for (uint16_t mantissa = 0; mantissa < 128; ++mantissa) {
    const float amax = F32FromBf16(static_cast<uint16_t>(0x3f80 | mantissa));
    for (const float divisor : {448.0f, 127.0f}) {
      // Through F32 and straight from the exact quotient: the same BF16.
      const double exact = static_cast<double>(amax) / divisor;
      const float got = WeightScale(BitsOf(amax), divisor, SourceType::kBf16);
      const int exponent = std::ilogb(exact);
      EXPECT_EQ(got, std::ldexp(std::nearbyint(std::ldexp(exact, 7 - exponent)), exponent - 7));
      EXPECT_EQ(F32FromBf16(static_cast<uint16_t>(StoredScaleBits(got, SourceType::kBf16))), got);
    }
  }
  EXPECT_EQ(Fp8DynamicScale(0), 1.0f / 229376.0f);
  EXPECT_EQ(Int8DynamicScale(0).scale, kF32MinNormal);
  EXPECT_EQ(Int8DynamicScale(BitsOf(254.0f)).scale, 2.0f);
  EXPECT_EQ(Int8DynamicScale(BitsOf(254.0f)).factor, 0.5f);
}

TEST(ErrorPower, IsThePowerOf2Point4) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> exponent(-50.0, 50.0);
  for (int i = 0; i < 200000; ++i) {
    const float d = static_cast<float>(std::exp2(exponent(random)));
    const double want = std::pow(static_cast<double>(d), 2.4);
    ASSERT_NEAR(ErrorPower(d) / want, 1.0, 3e-7) << d;
    const float scale = FloatFromBits((random() % 0x7f000000u) + kF32MinNormalBits);
    ASSERT_NEAR(ErrorPowerOfScale(scale) / std::pow(static_cast<double>(scale), 2.4), 1.0, 3e-7);
  }
  EXPECT_EQ(ErrorPower(0.0f), 0.0f);
  EXPECT_EQ(ErrorPower(0x1p-51f), 0.0f);
  EXPECT_EQ(ErrorPower(1e30f), ErrorPower(0x1p50f));
}

TEST(LaneSum, FoldsSixteenLanesByHalves) {
  LaneSum<float> sum;
  std::array<float, 16> lanes{};
  for (size_t j = 0; j < 100; ++j) {
    const float value = 1.0f / static_cast<float>(j + 1);
    sum.Add(j, value);
    lanes[j % 16] += value;
  }
  std::array<float, 8> eight{};
  for (int i = 0; i < 8; ++i) eight[i] = lanes[i] + lanes[i + 8];
  std::array<float, 4> four{};
  for (int i = 0; i < 4; ++i) four[i] = eight[i] + eight[i + 4];
  EXPECT_EQ(sum.Fold(), (four[0] + four[2]) + (four[1] + four[3]));
}

TEST(FpEnv, FlushesInsideItsScopeOnly) {
  volatile float tiny = 0x1p-126f;
  volatile float half = 0.5f;
  EXPECT_FALSE(FpEnv::Active());
  {
    FpEnv env;
    EXPECT_TRUE(FpEnv::Active());
    EXPECT_EQ(BitsOf(tiny * half), 0u);
  }
  EXPECT_FALSE(FpEnv::Active());
  EXPECT_NE(BitsOf(tiny * half), 0u);
  EXPECT_EQ(BitsOf(FlushSubnormal(FloatFromBits(0x80000001u))), kF32SignBit);
}

}  // namespace
}  // namespace octavo
