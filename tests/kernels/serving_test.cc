// Elementwise kernels of every instruction set against the reference, bit for bit,
// over ragged shapes; and the reference against F64 arithmetic.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"
#include "kernels/isa.h"
#include "kernels/serving_twins.h"
#include "tests/kernels/serving_twins_fixture.h"

namespace octavo {
namespace {

TEST(Elementwise, AllInstructionSetsGiveTheSameBits) {
  const FpEnv env;
  std::mt19937_64 random(3);
  const internal::ServingTwins& reference = internal::kServingReference;
  for (const auto& [name, unused, serving] : Twins()) {
    for (const int64_t count : {2, 15, 16, 18, 64, 100, 576}) {
      const auto size = static_cast<size_t>(count);
      const auto x = RandomBf16(random, count, 3.0f);
      const auto y = RandomBf16(random, count, 30.0f);
      std::vector<uint16_t> want(size), got(size);
      reference.norm.rms_norm(x.data(), y.data(), count, 1e-5f, want.data());
      serving->norm.rms_norm(x.data(), y.data(), count, 1e-5f, got.data());
      ExpectSameBits(got, want, name + " rms_norm");
      reference.norm.layer_norm(x.data(), y.data(), count, 1e-5f, want.data());
      serving->norm.layer_norm(x.data(), y.data(), count, 1e-5f, got.data());
      ExpectSameBits(got, want, name + " layer_norm");
      want = got = y;
      reference.activation.clip(want.data(), count, 8.3f);
      serving->activation.clip(got.data(), count, 8.3f);
      ExpectSameBits(got, want, name + " clip");
      reference.activation.silu_multiply(y.data(), x.data(), count, want.data());
      serving->activation.silu_multiply(y.data(), x.data(), count, got.data());
      ExpectSameBits(got, want, name + " silu_multiply");
      want = got = x;
      reference.rope.rotate(want.data(), y.data(), y.data() + count / 2, count / 2 * 2);
      serving->rope.rotate(got.data(), y.data(), y.data() + count / 2, count / 2 * 2);
      ExpectSameBits(got, want, name + " rotate");
      std::vector<float> logits;
      std::normal_distribution<float> normal(0, 5);
      for (int64_t i = 0; i < count; ++i) logits.push_back(normal(random));
      logits[size - 1] = *std::max_element(logits.begin(), logits.end());
      const LogSum sum = serving->softmax.log_sum(logits.data(), count);
      const LogSum expected = reference.softmax.log_sum(logits.data(), count);
      EXPECT_EQ(std::bit_cast<uint32_t>(sum.max), std::bit_cast<uint32_t>(expected.max));
      EXPECT_EQ(std::bit_cast<uint32_t>(sum.log), std::bit_cast<uint32_t>(expected.log));
      EXPECT_EQ(serving->softmax.argmax(logits.data(), count),
                std::max_element(logits.begin(), logits.end()) - logits.begin());
      std::vector<float> shares(size), want_shares(size);
      reference.softmax.softmax(logits.data(), count, want_shares.data());
      serving->softmax.softmax(logits.data(), count, shares.data());
      ExpectSameBits(shares, want_shares, name + " softmax");
      double exact = 0;
      for (const float value : logits) exact += std::exp(static_cast<double>(value));
      EXPECT_NEAR(expected.max + expected.log, std::log(exact), 1e-5);
      for (const float bad :
           {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
            std::numeric_limits<float>::quiet_NaN()}) {
        for (const size_t at : {size_t{0}, size / 2, size - 1}) {
          std::vector<float> broken = logits;
          broken[at] = bad;
          EXPECT_TRUE(std::isnan(serving->softmax.log_sum(broken.data(), count).max));
          EXPECT_TRUE(std::isnan(reference.softmax.log_sum(broken.data(), count).max));
        }
      }
    }
  }
}

TEST(Elementwise, LayerNormCentresAndScales) {
  const FpEnv env;
  std::mt19937_64 random(4);
  for (const int64_t count : {2, 15, 100}) {
    const auto size = static_cast<size_t>(count);
    std::vector<uint16_t> x = RandomBf16(random, count, 3.0f), out(size);
    const auto weight = RandomBf16(random, count, 1.0f);
    double mean = 0, variance = 0;
    for (uint16_t& value : x) value = Bf16FromF32(F32FromBf16(value) + 5.0f);
    for (const uint16_t value : x) mean += F32FromBf16(value) / static_cast<double>(count);
    for (const uint16_t value : x) {
      variance += std::pow(F32FromBf16(value) - mean, 2) / static_cast<double>(count);
    }
    internal::kServingReference.norm.layer_norm(x.data(), weight.data(), count, 1e-5f, out.data());
    for (size_t i = 0; i < size; ++i) {
      const double exact =
          (F32FromBf16(x[i]) - mean) / std::sqrt(variance + 1e-5) * F32FromBf16(weight[i]);
      EXPECT_NEAR(F32FromBf16(out[i]), exact, std::abs(exact) * 0x1p-8 + 1e-5) << i;
    }
  }
}

TEST(Elementwise, ClipKeepsWhatIsInside) {
  const FpEnv env;
  std::vector<uint16_t> x;
  for (const float value : {-9.0f, -8.0f, -0.5f, 0.0f, 7.5f, 8.0f, 300.0f}) {
    x.push_back(Bf16FromF32(value));
  }
  internal::kServingReference.activation.clip(x.data(), static_cast<int64_t>(x.size()), 8.0f);
  const float want[] = {-8.0f, -8.0f, -0.5f, 0.0f, 7.5f, 8.0f, 8.0f};
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(F32FromBf16(x[i]), want[i]);
}

// Subnormals stay, whatever the environment makes of them in sums.
TEST(Elementwise, ClipOfEveryBf16Number) {
  for (const float limit : {8.0f, 0.1f, 3.0000002f, 0x1p-126f, 3.4028235e38f}) {
    std::vector<uint16_t> want;
    std::vector<uint16_t> every(65536);
    for (uint32_t i = 0; i < 65536; ++i) {
      every[i] = static_cast<uint16_t>(i);
      const double value = std::bit_cast<float>(i << 16);
      if (std::isnan(value)) {
        want.push_back(static_cast<uint16_t>(i | 0x40));
      } else if (std::abs(value) > static_cast<double>(limit)) {
        want.push_back(static_cast<uint16_t>((i & 0x8000) | Bf16FromF32(limit)));
      } else {
        want.push_back(every[i]);
      }
    }
    const FpEnv env;
    std::vector<uint16_t> got = every;
    internal::kServingReference.activation.clip(got.data(), 65536, limit);
    ExpectSameBits(got, want, "reference");
    for (const auto& [name, unused, serving] : Twins()) {
      got = every;
      serving->activation.clip(got.data(), 65536, limit);
      ExpectSameBits(got, want, name);
    }
  }
}

TEST(Elementwise, SoftmaxSumsToOne) {
  const FpEnv env;
  const float x[] = {1.0f, -200.0f, 3.0f, 2.0f, 3.0f};
  float p[5];
  internal::kServingReference.softmax.softmax(x, 5, p);
  EXPECT_EQ(p[1], 0.0f);
  EXPECT_EQ(p[2], p[4]);
  EXPECT_NEAR(p[0] / p[3], std::exp(-1.0), 1e-6);
  EXPECT_NEAR(p[0] + p[2] + p[3] + p[4], 1.0, 1e-6);
}

// SiLU over every BF16 number walks the vector Exp through its whole range and its edges.
TEST(Elementwise, SiluOfEveryBf16Number) {
  const FpEnv env;
  std::vector<uint16_t> gate(65536), up(65536, Bf16FromF32(1.0f)), want(65536), got(65536);
  for (int i = 0; i < 65536; ++i) {
    gate[static_cast<size_t>(i)] = static_cast<uint16_t>(i);
    if (std::isnan(F32FromBf16(static_cast<uint16_t>(i)))) gate[static_cast<size_t>(i)] = 0;
  }
  internal::kServingReference.activation.silu_multiply(gate.data(), up.data(), 65536, want.data());
  for (const auto& [name, unused, serving] : Twins()) {
    serving->activation.silu_multiply(gate.data(), up.data(), 65536, got.data());
    ExpectSameBits(got, want, name);
  }
  for (int i = 0; i < 65536; i += 7) {
    const double x = F32FromBf16(gate[static_cast<size_t>(i)]);
    if (!(std::abs(x) < 80)) continue;
    const double exact = x / (1 + std::exp(-x));
    EXPECT_NEAR(F32FromBf16(want[static_cast<size_t>(i)]), exact,
                std::abs(exact) * 0x1p-8 + 1.2e-38);
  }
}

TEST(Rope, Llama3ScalingBlendsFrequencies) {
  RopeParameters plain;
  plain.theta = 500000;
  plain.head_dim = 128;
  RopeParameters scaled = plain;
  scaled.scaling = RopeScalingType::kLlama3;
  scaled.factor = 8;
  scaled.low_factor = 1;
  scaled.high_factor = 4;
  scaled.original_max_position = 8192;
  std::vector<float> a(64), b(64);
  RopeFrequencies(plain, a.data());
  RopeFrequencies(scaled, b.data());
  EXPECT_EQ(a[0], 1.0f);
  EXPECT_NEAR(a[1], std::pow(500000.0, -2.0 / 128), 1e-7);
  int blended = 0;
  for (size_t i = 0; i < 64; ++i) {
    const double wavelength = 2 * M_PI / static_cast<double>(a[i]);
    if (wavelength < 8192.0 / 4) {
      EXPECT_EQ(b[i], a[i]);
    } else if (wavelength > 8192.0) {
      EXPECT_EQ(b[i], a[i] / 8);
    } else {
      const double smooth = (8192.0 / wavelength - 1) / 3;
      const double want =
          (1 - smooth) * static_cast<double>(a[i]) / 8 + smooth * static_cast<double>(a[i]);
      EXPECT_NEAR(b[i], want, want * 1e-6);
      ++blended;
    }
  }
  EXPECT_GT(blended, 2);
}

}  // namespace
}  // namespace octavo
