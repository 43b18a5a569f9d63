#pragma once

// What the tests of dense products share: operands between NaNs, launches, exact sums.

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"
#include "kernels/cuda/dense/dense.h"
#include "kernels/cuda/dense/tiles.h"

namespace octavo::cuda {

using simt::Unified;

inline constexpr DenseTypes kTypes[] = {DenseTypes::kFp8, DenseTypes::kFp8Blocks, DenseTypes::kInt8,
                                        DenseTypes::kBf16, DenseTypes::kBf16Fp8};
inline constexpr DenseTile kTiles[] = {DenseTile::kRows8, DenseTile::kRows16, DenseTile::kRows64,
                                       DenseTile::kRows128};
inline constexpr int kMany = 1 << 30;  // blocks: units are given to blocks of their own
inline constexpr int kOne = 1;         // one block does all and keeps partial sums on its stack

inline size_t Size(int64_t a, int64_t b = 1) { return static_cast<size_t>(a * b); }

inline bool Exists(DenseTypes types, DenseTile tile) {
  for (const DenseRow& row : DenseKernels()) {
    if (row.types == types && row.tile == tile) return true;
  }
  return false;
}

// A matrix of codes or BF16 with rows further apart than they are long; in between lie NaNs.
struct Operand {
  Operand(int bytes_, bool int8_, int64_t rows_, int64_t depth_, uint32_t seed)
      : bytes(bytes_),
        int8(int8_),
        rows(rows_),
        depth(depth_),
        stride(RoundUp(depth_, 16) + 16),
        memory(Size(rows_, stride) * static_cast<size_t>(bytes_)) {
    std::memset(memory.data(), 0xff, memory.size());
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 1.0f);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t k = 0; k < depth; ++k) {
        Set(row, k, int8 ? random() : bytes == 2 ? Bf16FromF32(normal(random)) : FiniteFp8(random));
      }
    }
  }
  static uint32_t FiniteFp8(std::mt19937& random) {
    const auto code = static_cast<uint8_t>(random());
    return IsFp8Nan(code) ? 0 : code;
  }
  void Set(int64_t row, int64_t k, uint32_t bits) {
    std::memcpy(&memory[Size(row * stride + k) * static_cast<size_t>(bytes)], &bits,
                static_cast<size_t>(bytes));
  }
  double Value(int64_t row, int64_t k) const {
    uint16_t bits = 0;
    std::memcpy(&bits, &memory[Size(row * stride + k) * static_cast<size_t>(bytes)],
                static_cast<size_t>(bytes));
    if (int8) return static_cast<int8_t>(bits);
    return bytes == 2 ? F32FromBf16(bits) : F32FromFp8(static_cast<uint8_t>(bits));
  }
  // Elements from column k on.
  const std::byte* At(int64_t row, int64_t k) const {
    return memory.data() + Size(row * stride + k) * static_cast<size_t>(bytes);
  }

  int bytes;
  bool int8;
  int64_t rows, depth, stride;
  Unified<std::byte> memory;
};

struct Problem {
  Problem(DenseTypes t, int64_t m, int64_t n, int64_t k, uint32_t seed)
      : types(t),
        x(XBytes(t), t == DenseTypes::kInt8, m, k, seed),
        w(WBytes(t), t == DenseTypes::kInt8, n, k, seed + 1),
        blocks(CeilDiv(k, kScaleBlock)),
        x_scales(Size(m, blocks + 1)),
        w_scales(Size(CeilDiv(n, kScaleBlock), blocks + 2)) {
    std::mt19937 random(seed + 2);
    std::uniform_real_distribution<float> scale(0.01f, 3.0f);
    for (float& s : x_scales.span()) s = scale(random);
    for (float& s : w_scales.span()) s = scale(random);
  }
  Dense Call(int64_t rows) const {
    Dense call;
    call.types = types;
    call.rows = rows;
    call.channels = w.rows;
    call.depth = x.depth;
    call.x = x.memory.data();
    call.x_stride = x.stride;
    call.w = w.memory.data();
    call.w_stride = w.stride;
    call.x_scales = x_scales.data();
    call.x_scale_stride = blocks + 1;
    call.w_scales = w_scales.data();
    call.w_scale_stride = blocks + 2;
    return call;
  }
  double Scale(int64_t row, int64_t channel, int64_t k) const {
    if (types != DenseTypes::kFp8Blocks) return 1;
    const size_t block = Size(k / kScaleBlock);
    return double{x_scales[Size(row, blocks + 1) + block]} *
           double{w_scales[Size(channel / kScaleBlock, blocks + 2) + block]};
  }

  DenseTypes types;
  Operand x, w;
  int64_t blocks;
  Unified<float> x_scales, w_scales;
};

inline std::string Describe(DenseTypes types, DenseTile tile, int64_t m, int64_t n, int64_t k) {
  return "types " + std::to_string(static_cast<int>(types)) + ", tile " +
         std::to_string(static_cast<int>(tile)) + ", " + std::to_string(m) + " x " +
         std::to_string(n) + " x " + std::to_string(k);
}

// Launches with a workspace of its own and looks at its margins.
inline void LaunchWithWorkspace(Dense call) {
  const Unified<std::byte> workspace(Size(DenseWorkspaceBytes(call)));
  call.workspace = workspace.data();
  Launch(call, nullptr);
  ASSERT_TRUE(simt::Finish());
  ASSERT_TRUE(workspace.Intact());
}

// y in F32, rows one after the other.
inline std::vector<float> Product(Dense call) {
  const Unified<float> y(Size(call.rows, call.channels));
  call.finish.out_f32 = y.data();
  call.finish.stride = call.channels;
  LaunchWithWorkspace(call);
  EXPECT_TRUE(y.Intact());
  return {y.data(), y.data() + y.size()};
}

// The sums of the maximal subtrees of call.run, as F32 or INT32 bits.
inline std::vector<uint32_t> Sums(Dense call) {
  const size_t pieces = MaximalSubtrees(call.units.count, call.run).size();
  const Unified<uint32_t> sums(pieces * Size(call.rows, call.channels));
  call.sums = sums.data();
  LaunchWithWorkspace(call);
  EXPECT_TRUE(sums.Intact());
  return {sums.data(), sums.data() + sums.size()};
}

inline bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * 4) == 0;
}

inline void ExpectNear(const Problem& problem, const std::vector<float>& y, int64_t rows,
                       int units) {
  const int64_t steps = CeilDiv(problem.x.depth, 16) + units;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t channel = 0; channel < problem.w.rows; ++channel) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < problem.x.depth; ++k) {
        const double product =
            problem.x.Value(row, k) * problem.w.Value(channel, k) * problem.Scale(row, channel, k);
        sum += product;
        magnitude += std::fabs(product);
      }
      const float got = y[Size(row, problem.w.rows) + Size(channel)];
      if (problem.types == DenseTypes::kInt8) {
        ASSERT_EQ(got, static_cast<float>(static_cast<int32_t>(sum))) << row << ", " << channel;
      } else {
        ASSERT_LE(std::fabs(got - sum), static_cast<double>(steps) * kDenseErrorPerStep * magnitude)
            << row << ", " << channel;
      }
    }
  }
}

}  // namespace octavo::cuda
