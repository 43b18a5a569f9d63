// Run-time quantization of activations: every instruction set against the reference, and the
// reference against the formulas.

#include "kernels/quantize_activation.h"

#include <cmath>
#include <random>
#include <vector>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"
#include "kernels/quantize.h"

namespace octavo {
namespace {

std::vector<uint16_t> AllFiniteBf16() {
  std::vector<uint16_t> values;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7f80) != 0x7f80) values.push_back(static_cast<uint16_t>(bits));
  }
  return values;
}

std::vector<uint16_t> RandomRow(size_t count, float sigma, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, sigma);
  std::vector<uint16_t> row;
  for (size_t i = 0; i < count; ++i) row.push_back(Bf16FromF32(i % 29 == 3 ? 0 : normal(random)));
  return row;
}

struct Results {
  std::vector<uint8_t> divide, multiply;
  std::vector<int8_t> int8;
  std::vector<uint16_t> values, multiplied, grouped;
  std::vector<float> scales;
  uint32_t amax = 0;
  bool finite = false;
  bool operator==(const Results&) const = default;
};

Results RunAll(Isa isa, const std::vector<uint16_t>& row, float scale) {
  FpEnv env;
  const QuantizeActivationOps& ops = QuantizeActivationOpsFor(isa);
  const size_t count = row.size();
  Results r;
  r.divide.assign(count + 3, 0x55);
  r.multiply.assign(count + 3, 0x55);
  r.int8.assign(count + 3, 0x55);
  r.values.assign(count + 3, 0x5555);
  r.multiplied.assign(count + 3, 0x5555);
  r.grouped.assign(count + 3, 0x5555);
  r.scales.assign((count + kActivationGroup - 1) / kActivationGroup, -1.0f);
  r.amax = ops.amax(row.data(), count);
  ops.fp8_divide(row.data(), count, scale, r.divide.data());
  ops.fp8_divide_bf16(row.data(), count, scale, r.values.data());
  ops.fp8_multiply(row.data(), count, 1.0f / scale, r.multiply.data());
  ops.fp8_multiply_bf16(row.data(), count, 1.0f / scale, r.multiplied.data());
  ops.int8_multiply(row.data(), count, 1.0f / scale, r.int8.data());
  r.finite = ops.fp8_groups_bf16(row.data(), count, r.scales.data(), r.grouped.data());
  return r;
}

TEST(QuantizeActivation, SameBitsOnEveryBf16Value) {
  const std::vector<uint16_t> all = AllFiniteBf16();
  for (const float scale : {1.0f, 0.017f, 0x1p-17f, 1.0f / 229376.0f, 0x1.fffffep9f, 3e-20f}) {
    const Results want = RunAll(Isa::kReference, all, scale);
    for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
      if (!IsSupported(isa)) continue;
      EXPECT_TRUE(RunAll(isa, all, scale) == want) << Name(isa) << " " << scale;
    }
  }
}

TEST(QuantizeActivation, SameBitsOnEveryRaggedLength) {
  for (size_t count = 0; count <= 300; ++count) {
    const std::vector<uint16_t> row = RandomRow(count, 2.0f, static_cast<uint32_t>(count));
    const Results want = RunAll(Isa::kReference, row, 0.013f);
    EXPECT_EQ(want.divide[count], 0x55);
    EXPECT_EQ(want.values[count], 0x5555);
    EXPECT_EQ(want.multiplied[count], 0x5555);
    for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
      if (!IsSupported(isa)) continue;
      ASSERT_TRUE(RunAll(isa, row, 0.013f) == want) << Name(isa) << " " << count;
    }
  }
}

TEST(QuantizeActivation, FollowsTheFormulas) {
  const std::vector<uint16_t> row = RandomRow(1000, 3.0f, 1);
  const Results got = RunAll(BestIsa(), row, 0.02f);
  for (size_t i = 0; i < row.size(); ++i) {
    const float x = F32FromBf16(row[i]);
    EXPECT_EQ(got.divide[i], Fp8FromF32(x / 0.02f));
    EXPECT_EQ(got.values[i], Bf16FromFp8(got.divide[i]));
    EXPECT_EQ(got.multiply[i], Fp8FromF32(x * (1.0f / 0.02f)));
    EXPECT_EQ(got.multiplied[i], Bf16FromFp8(got.multiply[i]));
    EXPECT_EQ(got.int8[i], std::min(127.0f, std::max(-127.0f, std::nearbyint(x * (1.0f / 0.02f)))));
    float largest = 0;
    const size_t group = i / kActivationGroup;
    for (size_t j = group * kActivationGroup; j < std::min(row.size(), (group + 1) * 128); ++j) {
      largest = std::max(largest, std::abs(F32FromBf16(row[j])));
    }
    EXPECT_EQ(got.scales[group], Fp8DynamicScale(BitsOf(largest)));
    EXPECT_EQ(got.grouped[i], Bf16FromFp8(Fp8FromF32(x / got.scales[group])));
  }
}

TEST(QuantizeActivation, ZeroRowsAndNonFiniteValues) {
  for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsSupported(isa)) continue;
    const Results zero = RunAll(isa, std::vector<uint16_t>(257, 0), Fp8DynamicScale(0));
    EXPECT_EQ(zero.amax, 0u);
    EXPECT_TRUE(zero.finite);
    EXPECT_EQ(zero.scales, std::vector<float>(3, kFp8DynamicScaleMin));
    for (size_t i = 0; i < 257; ++i) EXPECT_EQ(zero.values[i] | zero.grouped[i], 0);
    for (const size_t at : {0u, 130u, 256u}) {
      std::vector<uint16_t> row(257, 0x3f80);
      row[at] = 0x7fc0;
      const Results bad = RunAll(isa, row, 1.0f);
      EXPECT_FALSE(bad.finite);
      EXPECT_FALSE(IsFiniteAmax(bad.amax));
    }
  }
}

}  // namespace
}  // namespace octavo
