// Dense products on tensor cores against exact sums, and their epilogue against the CPU's. On the
// host twin of simt.h everywhere and, in octavo-gpu-check, on a GPU.

#include "kernels/cuda/dense/dense.h"

#include "kernels/matmul.h"
#include "tests/kernels/cuda/dense_problem.h"

namespace octavo::cuda {
namespace {

struct Shape {
  int64_t rows, channels, depth;
};

TEST(CudaDense, ExactSumsWithinTheBound) {
  // Ragged everywhere, and deeper than the stages of copies.
  const std::vector<Shape> few = {
      {1, 1, 1}, {3, 33, 15}, {8, 32, 128}, {9, 100, 300}, {2, 20, 1100}};
  const std::vector<Shape> many = {{17, 129, 1}, {9, 100, 300}, {65, 31, 420}, {130, 140, 97}};
  uint32_t seed = 1;
  for (const DenseTypes types : kTypes) {
    for (const DenseTile tile : kTiles) {
      if (!Exists(types, tile)) continue;
      const bool large = tile == DenseTile::kRows64 || tile == DenseTile::kRows128;
      for (const Shape& shape : large ? many : few) {
        SCOPED_TRACE(Describe(types, tile, shape.rows, shape.channels, shape.depth));
        const Problem problem(types, shape.rows, shape.channels, shape.depth, seed++);
        Dense call = problem.Call(shape.rows);
        call.tile = tile;
        ExpectNear(problem, Product(call), shape.rows, 1);
      }
    }
  }
}

TEST(CudaDense, SmallIntegersAreExact) {
  // Sums below 2^24 of whole numbers: every order gives the same bits, a GPU's too.
  const FpEnv environment;
  for (const DenseTypes types : kTypes) {
    Problem problem(types, 21, 70, 417, 9);
    for (Operand* operand : {&problem.x, &problem.w}) {
      for (int64_t row = 0; row < operand->rows; ++row) {
        for (int64_t k = 0; k < operand->depth; ++k) {
          const auto value = static_cast<float>((row * 7 + k * 5 + row * k) % 17 - 8);
          operand->Set(row, k,
                       operand->int8         ? static_cast<uint32_t>(value) & 0xff
                       : operand->bytes == 2 ? Bf16FromF32(value)
                                             : Fp8FromF32(value));
        }
      }
    }
    for (float& s : problem.x_scales.span()) s = 2;
    for (float& s : problem.w_scales.span()) s = 0.5f;
    const std::vector<float> y = Product(problem.Call(21));
    for (int64_t row = 0; row < 21; ++row) {
      for (int64_t channel = 0; channel < 70; ++channel) {
        double sum = 0;
        for (int64_t k = 0; k < 417; ++k) {
          sum += problem.x.Value(row, k) * problem.w.Value(channel, k);
        }
        ASSERT_EQ(y[Size(row * 70 + channel)], sum) << row << ", " << channel;
      }
    }
  }
}

TEST(CudaDense, EveryCodeIsItsValue) {
  // One side has a single one in every row, at k = row: y is the other side, turned.
  for (const DenseTypes types : {DenseTypes::kFp8, DenseTypes::kBf16Fp8}) {
    for (const bool codes_in_x : {false, true}) {
      Problem problem(types, 254, 254, 254, 3);
      Operand& codes = codes_in_x ? problem.x : problem.w;
      Operand& ones = codes_in_x ? problem.w : problem.x;
      for (int64_t row = 0; row < 254; ++row) {
        for (int64_t k = 0; k < 254; ++k) {
          const int64_t number = (row + k) % 254;
          const auto code = static_cast<uint8_t>(number < 127 ? number : number + 1);
          codes.Set(row, k, codes.bytes == 2 ? Bf16FromFp8(code) : code);
          const float one = row == k ? 1.0f : 0.0f;
          ones.Set(row, k, ones.bytes == 2 ? Bf16FromF32(one) : Fp8FromF32(one));
        }
      }
      const std::vector<float> y = Product(problem.Call(254));
      for (int64_t row = 0; row < 254; ++row) {
        for (int64_t channel = 0; channel < 254; ++channel) {
          const double want = codes_in_x ? codes.Value(row, channel) : codes.Value(channel, row);
          ASSERT_EQ(y[Size(row * 254 + channel)], want) << row << ", " << channel;
        }
      }
    }
  }
}

TEST(CudaDense, FinishesLikeTheCpu) {
  const FpEnv environment;
  const MatmulOps& ops = MatmulOpsFor(Isa::kReference);
  constexpr int64_t kRows = 11, kChannels = 75, kStride = 80;
  for (const DenseTypes types : kTypes) {
    Problem problem(types, kRows, kChannels, 200, 55);
    for (int64_t k = 0; k < 200; ++k) problem.x.Set(4, k, 0);  // a row of zeros
    const std::vector<float> plain = Product(problem.Call(kRows));
    std::mt19937 random(8);
    std::normal_distribution<float> normal(0, 1);
    Unified<float> row_scales(kRows), channel_scales(kChannels), bias(kChannels);
    for (float& s : row_scales.span()) s = std::ldexp(std::fabs(normal(random)), -7);
    row_scales[1] = 0x1p-126f;
    row_scales[2] = 0x1p100f;
    for (float& s : channel_scales.span()) s = std::fabs(normal(random));
    channel_scales[70] = 0x1p-120f;
    for (float& b : bias.span()) b = normal(random);
    for (int mask = 0; mask < 16; ++mask) {
      Unified<uint16_t> residual(Size(kRows, kStride)), out(Size(kRows, kStride));
      for (uint16_t& r : residual.span()) r = Bf16FromF32(normal(random));
      const Unified<float> out_f32(Size(kRows, kStride));
      for (float& y : out_f32.span()) y = -7;
      const bool aliased = (mask & 8) != 0;
      DenseFinish finish{.row_scale = 0.37f, .channel_scale = 1.7f, .stride = kStride};
      if ((mask & 1) != 0) finish.row_scales = row_scales.data();
      if ((mask & 2) != 0) finish.channel_scales = channel_scales.data();
      if ((mask & 4) != 0) finish.bias = bias.data();
      if (aliased) finish.residual = residual.data();
      const std::vector<uint16_t> before(residual.span().begin(), residual.span().end());
      finish.out = aliased ? residual.data() : out.data();
      Dense call = problem.Call(kRows);
      call.finish = finish;
      LaunchWithWorkspace(call);
      if (!aliased) {
        call.finish.out = nullptr;
        call.finish.out_f32 = out_f32.data();
        LaunchWithWorkspace(call);
      }
      EXPECT_TRUE(residual.Intact() && out.Intact() && out_f32.Intact());
      const std::vector<float> scale(kChannels, 1.7f);
      for (int64_t row = 0; row < kRows; ++row) {
        const float* sums = &plain[Size(row, kChannels)];
        const float row_scale = (mask & 1) != 0 ? row_scales[Size(row)] : 0.37f;
        const float* scales = (mask & 2) != 0 ? channel_scales.data() : scale.data();
        const float* biases = (mask & 4) != 0 ? bias.data() : nullptr;
        std::vector<uint16_t> want(kChannels);
        std::vector<float> want_f32(kChannels);
        const uint16_t* from = aliased ? &before[Size(row, kStride)] : nullptr;
        ops.finish(sums, kChannels, row_scale, scales, biases, from, want.data());
        ops.finish_f32(sums, kChannels, row_scale, scales, biases, want_f32.data());
        const uint16_t* got = finish.out + row * kStride;
        ASSERT_EQ(std::memcmp(got, want.data(), kChannels * 2), 0) << mask << ", row " << row;
        if (aliased) {
          ASSERT_EQ(std::memcmp(got + kChannels, from + kChannels, (kStride - kChannels) * 2), 0);
          continue;
        }
        const float* got_f32 = &out_f32[Size(row, kStride)];
        ASSERT_EQ(std::memcmp(got_f32, want_f32.data(), kChannels * 4), 0) << mask << ", " << row;
        for (int64_t i = kChannels; i < kStride; ++i) ASSERT_EQ(got_f32[i], -7);
      }
    }
  }
}

TEST(CudaDense, LargeInt8SumsAreModulo32Bits) {
  Problem problem(DenseTypes::kInt8, 2, 3, 1024, 1);
  for (Operand* operand : {&problem.x, &problem.w}) {
    for (int64_t row = 0; row < operand->rows; ++row) {
      for (int64_t k = 0; k < 1024; ++k) operand->Set(row, k, 0x80);
    }
  }
  for (const float y : Product(problem.Call(2))) EXPECT_EQ(y, 16777216.0f);
}

TEST(CudaDense, NothingToSum) {
  const FpEnv environment;
  const Problem problem(DenseTypes::kBf16, 2, 5, 0, 1);
  const Unified<float> bias(5);
  for (size_t i = 0; i < 5; ++i) bias[i] = static_cast<float>(i) + 0.5f;
  Dense call = problem.Call(2);
  call.finish.bias = bias.data();
  const std::vector<float> y = Product(call);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(y[i], bias[i % 5]);
  call.rows = 0;
  EXPECT_TRUE(Product(call).empty());
  call.rows = 2;
  call.channels = 0;
  EXPECT_TRUE(Product(call).empty());
}

TEST(CudaDense, KernelsOfTheTable) {
  EXPECT_FALSE(DenseKernels().empty());
  for (const DenseRow& row : DenseKernels()) {
    EXPECT_LE(row.shared_bytes, 99 * 1024);  // what an Ampere of the smaller kind has
    EXPECT_GE(row.sm, 80);
  }
  for (const DenseTypes types : kTypes) {
    for (const int64_t rows : {1, 8, 9, 16, 17, 64, 65, 5000}) {
      for (const int64_t channels : {1, 4096, 60000}) {
        EXPECT_TRUE(Exists(types, DenseTileFor(types, rows, channels, 264)));
      }
    }
  }
}

}  // namespace
}  // namespace octavo::cuda
