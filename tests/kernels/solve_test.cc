// Second moments and F64 products of every instruction set against the reference, bit for bit, over
// ragged shapes; and the reference against sums of its own making.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/units.h"
#include "gtest/gtest.h"
#include "kernels/hessian.h"
#include "kernels/matmul.h"
#include "kernels/matmul_f64.h"
#include "tests/kernels/serving_twins_fixture.h"

namespace octavo {
namespace {

constexpr Isa kVectorIsas[] = {Isa::kAvx2, Isa::kAvx512};

// Upper triangle over all tokens, kHessianTokens at a time, strip by strip; rows of a padded
// stride.
std::vector<float> Accumulate(Isa isa, const std::vector<uint16_t>& x, int64_t tokens,
                              int64_t channels, int64_t x_stride) {
  const int64_t stride = RoundUp(channels, 16);
  std::vector<float> h(static_cast<size_t>(channels * stride));
  for (int64_t token = 0; token < tokens; token += kHessianTokens) {
    const HessianTokens part = {x.data() + token * x_stride, x_stride,
                                std::min(kHessianTokens, tokens - token), channels};
    for (int64_t row = 0; row < channels; row += kHessianStripRows) {
      HessianOpsFor(isa).add(part, row, std::min(row + kHessianStripRows, channels), h.data(),
                             stride);
    }
  }
  return h;
}

TEST(Hessian, AllInstructionSetsGiveTheSameBits) {
  const FpEnv env;
  std::mt19937_64 random(1);
  for (const int64_t channels : {1, 15, 16, 33, 64, 65, 100, 150}) {
    for (const int64_t tokens : {1, 31, 32, 33, 255, 256, 300}) {
      const int64_t stride = channels + 3;
      const auto x = RandomBf16(random, tokens * stride, 1.0f);
      const auto want = Accumulate(Isa::kReference, x, tokens, channels, stride);
      for (const Isa isa : kVectorIsas) {
        if (!IsSupported(isa)) continue;
        ExpectSameBits(Accumulate(isa, x, tokens, channels, stride), want,
                       std::string(Name(isa)) + " channels " + std::to_string(channels) +
                           " tokens " + std::to_string(tokens));
      }
    }
  }
}

TEST(Hessian, IsThe32BlockRuleOfProductsOverTokens) {
  const FpEnv env;
  std::mt19937_64 random(2);
  const int64_t tokens = 70;
  const int64_t channels = 16;
  const auto x = RandomBf16(random, tokens * channels, 1.0f);
  const auto h = Accumulate(BestIsa(), x, tokens, channels, channels);
  alignas(64) std::byte tiles[3 * TileBytes(WeightType::kBf16)] = {};
  const PackedWeights weights = {WeightType::kBf16, 1, 3, tiles, nullptr};
  std::vector<float> turned(static_cast<size_t>(channels * 96));
  for (int64_t c = 0; c < channels; ++c) {
    std::vector<uint16_t> column;
    for (int64_t t = 0; t < tokens; ++t) column.push_back(x[static_cast<size_t>(t * 16 + c)]);
    PackChannel(weights, tiles, c, 0, reinterpret_cast<const std::byte*>(column.data()), tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      turned[static_cast<size_t>(c * 96 + t)] = F32FromBf16(column[static_cast<size_t>(t)]);
    }
  }
  std::vector<float> want(static_cast<size_t>(channels * channels));
  MatmulOpsFor(Isa::kReference)
      .sum(weights, {channels, 0, 1, 0, 3}, turned.data(), 96, want.data(), channels);
  ExpectSameBits(h, want, "product");
}

TEST(Hessian, IsSymmetricAndTouchesNothingLeftOfItsStrip) {
  const FpEnv env;
  std::mt19937_64 random(3);
  const int64_t channels = 100;
  const auto x = RandomBf16(random, 64 * channels, 1.0f);
  for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsSupported(isa)) continue;
    const int64_t stride = 112;
    std::vector<float> h(static_cast<size_t>(channels * stride), 0.0f);
    for (int64_t i = 64; i < channels; ++i) {
      for (int64_t j = 0; j < 64; ++j) h[static_cast<size_t>(i * stride + j)] = -7.0f;
    }
    HessianOpsFor(isa).add({x.data(), channels, 64, channels}, 0, 64, h.data(), stride);
    HessianOpsFor(isa).add({x.data(), channels, 64, channels}, 64, 100, h.data(), stride);
    for (int64_t i = 0; i < channels; ++i) {
      for (int64_t j = 0; j < stride; ++j) {
        const float value = h[static_cast<size_t>(i * stride + j)];
        if (j >= channels) {
          EXPECT_EQ(value, 0.0f) << Name(isa);
        } else if (j < i / 64 * 64) {
          EXPECT_EQ(value, -7.0f) << Name(isa);
        } else if (j / 64 == i / 64) {
          EXPECT_EQ(BitsOf(value), BitsOf(h[static_cast<size_t>(j * stride + i)])) << Name(isa);
        }
      }
    }
  }
}

std::vector<double> RandomF64(std::mt19937_64& random, int64_t count) {
  std::normal_distribution<double> normal;
  std::vector<double> out(static_cast<size_t>(count));
  for (double& x : out) x = normal(random);
  return out;
}

TEST(MatmulF64, AllInstructionSetsGiveTheSameBits) {
  const FpEnv env;
  std::mt19937_64 random(4);
  for (const int64_t rows : {1, 3, 4, 7, 8, 13, 128}) {
    for (const int64_t columns : {1, 7, 8, 16, 29, 64}) {
      for (const int64_t depth : {0, 1, 5, 128}) {
        for (const bool turned : {false, true}) {
          const auto a = RandomF64(random, rows * depth + 1);
          const auto b = RandomF64(random, depth * columns + 1);
          const auto start = RandomF64(random, rows * (columns + 2));
          ProductF64 p = {rows, columns, depth, a.data(), depth, 1, b.data(), columns};
          if (turned && depth > 0) {  // a by columns, k from the last to the first
            p.a = a.data() + (depth - 1) * rows;
            p.a_row = 1;
            p.a_depth = -rows;
            p.b = b.data() + (depth - 1) * columns;
            p.b_depth = -columns;
          }
          std::vector<double> want = start;
          MatmulF64OpsFor(Isa::kReference).subtract_product(p, want.data(), columns + 2);
          for (const Isa isa : kVectorIsas) {
            if (!IsSupported(isa)) continue;
            std::vector<double> got = start;
            MatmulF64OpsFor(isa).subtract_product(p, got.data(), columns + 2);
            ExpectSameBits(got, want,
                           std::string(Name(isa)) + " " + std::to_string(rows) + "x" +
                               std::to_string(columns) + "x" + std::to_string(depth));
          }
        }
      }
    }
  }
}

TEST(MatmulF64, SubtractsOneProductAfterTheOtherWithOneRoundingEach) {
  // The product is 1 + 2^-29 + 2^-60: rounded on its own it would lose the last term.
  const double a[] = {1 + 0x1p-30, 1.0};
  const double b[] = {1 + 0x1p-30, -1.0};
  double c = 1.0;
  MatmulF64OpsFor(Isa::kReference).subtract_product({1, 1, 2, a, 2, 1, b, 1}, &c, 1);
  const double first = std::fma(-a[0], b[0], 1.0);
  EXPECT_EQ(c, first + 1.0);
  EXPECT_EQ(first, -0x1p-29 - 0x1p-60);
}

}  // namespace
}  // namespace octavo
