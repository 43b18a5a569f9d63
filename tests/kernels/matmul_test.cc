// Products and their epilogues of every instruction set against the reference, bit for bit, over
// ragged shapes; and the reference against exact sums.

#include "kernels/matmul.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/units.h"
#include "gtest/gtest.h"
#include "kernels/isa.h"
#include "kernels/serving_twins.h"
#include "tests/kernels/serving_twins_fixture.h"

namespace octavo {
namespace {

// 64-byte aligned tiles with random weights.
struct Packed {
  std::vector<std::byte> memory;
  std::vector<int32_t> sums;
  PackedWeights view;
};

Packed RandomWeights(std::mt19937_64& random, WeightType type, int64_t channels, int64_t depth) {
  Packed out;
  out.view.type = type;
  out.view.group_count = CeilDiv(channels, kTileChannels);
  out.view.block_count = CeilDiv(depth, kTileDepth);
  const int64_t bytes = out.view.group_count * out.view.block_count * TileBytes(type);
  out.memory.resize(static_cast<size_t>(bytes + 64));
  std::byte* tiles = out.memory.data() + (64 - reinterpret_cast<uintptr_t>(out.memory.data()) % 64);
  out.view.tiles = tiles;
  out.sums.resize(static_cast<size_t>(out.view.group_count * kTileChannels));
  for (int64_t c = 0; c < channels; ++c) {
    std::vector<std::byte> row;
    const auto values = RandomBf16(random, depth, 0.1f);
    for (const uint16_t value : values) {
      if (type == WeightType::kBf16) {
        row.push_back(static_cast<std::byte>(value & 0xff));
        row.push_back(static_cast<std::byte>(value >> 8));
      } else if (type == WeightType::kFp8) {
        const auto code = static_cast<uint8_t>(random());
        row.push_back(static_cast<std::byte>(IsFp8Nan(code) ? 0 : code));
      } else {
        const auto code = static_cast<int8_t>(random());
        row.push_back(static_cast<std::byte>(code));
        out.sums[static_cast<size_t>(c)] += code;
      }
    }
    PackChannel(out.view, tiles, c, 0, row.data(), depth);
  }
  out.view.channel_sums = out.sums.data();
  return out;
}

TEST(Matmul, TilesHoldEveryElementOnce) {
  for (const WeightType type : {WeightType::kBf16, WeightType::kFp8, WeightType::kInt8}) {
    std::vector<int> hits(static_cast<size_t>(TileBytes(type)));
    for (int64_t channel = 0; channel < kTileChannels; ++channel) {
      for (int64_t k = 0; k < kTileDepth; ++k) {
        for (int64_t i = 0; i < ElementBytes(type); ++i) {
          ++hits[static_cast<size_t>(TileOffset(type, channel, k) + i)];
        }
      }
    }
    for (const int hit : hits) EXPECT_EQ(hit, 1);
  }
}

// An FP8 row of products is a multiple of 2^-18 that F64 holds exactly.
TEST(Matmul, ReferenceIsNearTheExactSum) {
  const FpEnv env;
  std::mt19937_64 random(5);
  const int64_t depth = 300;
  const Packed weights = RandomWeights(random, WeightType::kFp8, 16, depth);
  std::vector<float> x(static_cast<size_t>(RoundUp(depth, 32)));
  for (int64_t k = 0; k < depth; ++k) {
    const auto code = static_cast<uint8_t>(random());
    x[static_cast<size_t>(k)] = F32FromFp8(IsFp8Nan(code) ? 0 : code);
  }
  std::vector<float> sums(16);
  internal::kMatmulReference.sum(weights.view, {1, 0, 1, 0, weights.view.block_count}, x.data(), 0,
                                 sums.data(), 16);
  for (int64_t c = 0; c < 16; ++c) {
    double exact = 0;
    double magnitude = 0;
    for (int64_t k = 0; k < depth; ++k) {
      const std::byte code =
          *(weights.view.Tile(0, k / 32) + TileOffset(WeightType::kFp8, c, k % 32));
      const double term = static_cast<double>(F32FromFp8(static_cast<uint8_t>(code))) *
                          static_cast<double>(x[static_cast<size_t>(k)]);
      exact += term;
      magnitude += std::abs(term);
    }
    EXPECT_NEAR(sums[static_cast<size_t>(c)], exact, magnitude * 30 * 0x1p-24);
  }
}

TEST(Matmul, AllInstructionSetsGiveTheSameBits) {
  const FpEnv env;
  std::mt19937_64 random(1);
  for (const auto& [name, ops, unused] : Twins()) {
    for (const WeightType type : {WeightType::kBf16, WeightType::kFp8, WeightType::kInt8}) {
      for (const int64_t rows : {1, 2, 3, 5, 6, 13, 65}) {
        const auto channels = static_cast<int64_t>(random() % 130 + 1);
        const auto depth = static_cast<int64_t>(random() % 400 + 1);
        const Packed weights = RandomWeights(random, type, channels, depth);
        const int64_t stride = weights.view.block_count * 32;
        const int64_t columns = weights.view.group_count * 16;
        const std::string what = name + " rows " + std::to_string(rows) + " channels " +
                                 std::to_string(channels) + " depth " + std::to_string(depth) +
                                 " type " + std::to_string(static_cast<int>(type));
        const MatmulPart part = {rows, 0, weights.view.group_count, 0, weights.view.block_count};
        if (type == WeightType::kInt8) {
          std::vector<int8_t> x(static_cast<size_t>(rows * stride));
          for (int8_t& value : x) value = static_cast<int8_t>(random());
          std::vector<int32_t> want(static_cast<size_t>(rows * columns)), got = want;
          internal::kMatmulReference.sum_int8(weights.view, part, x.data(), stride, want.data(),
                                              columns);
          ops->sum_int8(weights.view, part, x.data(), stride, got.data(), columns);
          ExpectSameBits(got, want, what);
          continue;
        }
        std::vector<float> x(static_cast<size_t>(rows * stride));
        const auto bf16 = RandomBf16(random, rows * stride, 1.0f);
        internal::kMatmulReference.widen(bf16.data(), rows * stride, x.data());
        std::vector<float> want(static_cast<size_t>(rows * columns)), got = want;
        internal::kMatmulReference.sum(weights.view, part, x.data(), stride, want.data(), columns);
        ops->sum(weights.view, part, x.data(), stride, got.data(), columns);
        ExpectSameBits(got, want, what);

        const int64_t blocks = CeilDiv(weights.view.block_count, 4);
        std::vector<float> row_scales, channel_scales;
        std::uniform_real_distribution<float> uniform(0.001f, 0.1f);
        for (int64_t i = 0; i < rows * blocks; ++i) row_scales.push_back(uniform(random));
        for (int64_t i = 0; i < columns * blocks; ++i) channel_scales.push_back(uniform(random));
        const BlockScales scales = {row_scales.data(), blocks, channel_scales.data(), columns};
        internal::kMatmulReference.sum_scaled(weights.view, part, x.data(), stride, scales,
                                              want.data(), columns);
        ops->sum_scaled(weights.view, part, x.data(), stride, scales, got.data(), columns);
        ExpectSameBits(got, want, what + " scaled");
      }
    }
  }
}

TEST(Matmul, EveryFp8CodeIsDecodedExactly) {
  const FpEnv env;
  for (const auto& [name, ops, unused] : Twins()) {
    for (int code = 0; code < 256; ++code) {
      if (IsFp8Nan(static_cast<uint8_t>(code))) continue;
      for (const int64_t rows : {1, 2}) {
        alignas(64) std::byte tile[512] = {};
        PackedWeights weights = {WeightType::kFp8, 1, 1, tile, nullptr};
        const auto stored = static_cast<std::byte>(code);
        PackChannel(weights, tile, code % 16, 0, &stored, 1);
        std::vector<float> x(64), sums(32);
        x[0] = x[32] = 0x1p-110f;
        ops->sum(weights, {rows, 0, 1, 0, 1}, x.data(), 32, sums.data(), 16);
        const float value = F32FromFp8(static_cast<uint8_t>(code)) * 0x1p-110f;
        EXPECT_EQ(sums[static_cast<size_t>(code % 16)], value) << name << " code " << code;
      }
    }
  }
}

TEST(Epilogue, AllInstructionSetsGiveTheSameBits) {
  const FpEnv env;
  std::mt19937_64 random(2);
  std::normal_distribution<float> normal;
  const MatmulOps& reference = internal::kMatmulReference;
  for (const auto& [name, ops, unused] : Twins()) {
    for (const int64_t count : {1, 15, 16, 17, 64, 131}) {
      const auto size = static_cast<size_t>(count);
      std::vector<float> sums, scales, bias;
      std::vector<int32_t> exact;
      for (int64_t i = 0; i < count; ++i) {
        sums.push_back(normal(random));
        scales.push_back(normal(random));
        bias.push_back(normal(random));
        exact.push_back(static_cast<int32_t>(random()));
      }
      sums[0] = std::numeric_limits<float>::quiet_NaN();
      const auto residual = RandomBf16(random, count, 1.0f);
      for (int mask = 0; mask < 8; ++mask) {
        const float* s = (mask & 1) != 0 ? scales.data() : nullptr;
        const float* b = (mask & 2) != 0 ? bias.data() : nullptr;
        const uint16_t* r = (mask & 4) != 0 ? residual.data() : nullptr;
        std::vector<uint16_t> want(size), got(size);
        reference.finish(sums.data(), count, 0.37f, s, b, r, want.data());
        ops->finish(sums.data(), count, 0.37f, s, b, r, got.data());
        ExpectSameBits(got, want, name + " finish");
        std::vector<float> want_f32(size), got_f32(size);
        reference.finish_f32(sums.data() + 1, count - 1, 0.37f, s, b, want_f32.data());
        ops->finish_f32(sums.data() + 1, count - 1, 0.37f, s, b, got_f32.data());
        ExpectSameBits(got_f32, want_f32, name + " finish_f32");
      }
      std::vector<float> want(size), got(size);
      reference.from_int32(exact.data(), count, want.data());
      ops->from_int32(exact.data(), count, got.data());
      ExpectSameBits(got, want, name + " from_int32");
      reference.widen(residual.data(), count, want.data());
      ops->widen(residual.data(), count, got.data());
      ExpectSameBits(got, want, name + " widen");
      reference.add(want.data(), scales.data(), count);
      ops->add(got.data(), scales.data(), count);
      ExpectSameBits(got, want, name + " add");
      reference.add_weighted(want.data(), scales.data(), 0.3f, count);
      ops->add_weighted(got.data(), scales.data(), 0.3f, count);
      ExpectSameBits(got, want, name + " add_weighted");
    }
  }
}

}  // namespace
}  // namespace octavo
