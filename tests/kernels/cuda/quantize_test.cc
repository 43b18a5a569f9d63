// GPU kernels that quantize against the reference, bit for bit. Runs on the host twin of simt.h
// everywhere and, in octavo-gpu-check, on a GPU.

#include "kernels/cuda/quantize/quantize.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/units.h"
#include "gtest/gtest.h"
#include "kernels/quantize.h"
#include "tests/kernels/cuda/expected_token.h"

namespace octavo::cuda {
namespace {

using simt::Unified;

const QuantizeOps& Reference() { return QuantizeOpsFor(Isa::kReference); }

size_t Product(int64_t a, int64_t b) { return static_cast<size_t>(a * b); }

// Random finite bits of a type, every exponent among them, zeros and subnormals too.
uint32_t AnyFinite(SourceType type, std::mt19937& random) {
  for (;;) {
    uint32_t bits = random();
    if (type != SourceType::kF32) bits &= 0xffff;
    const size_t index = FindNonFinite(&bits, type, 1);
    if (index == 1) return bits;
  }
}

// A matrix in memory that the kernels see, at an offset that may spoil its alignment.
struct Matrix {
  Matrix(SourceType t, int64_t r, int64_t c, int shift, uint32_t seed)
      : type(t), rows(r), columns(c), bytes(Product(r, c) * ByteSize(t) + 16) {
    source = bytes.data() + static_cast<size_t>(shift) * ByteSize(t);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 0.05f);
    for (int64_t i = 0; i < rows * columns; ++i) {
      uint32_t bits = AnyFinite(type, random);
      if (type == SourceType::kBf16 && i % 4 != 0) bits = Bf16FromF32(normal(random));
      Set(i, bits);
    }
  }
  void Set(int64_t i, uint32_t bits) {
    std::memcpy(source + static_cast<size_t>(i) * ByteSize(type), &bits, ByteSize(type));
  }
  const std::byte* Row(int64_t row) const {
    return source + Product(row, columns) * ByteSize(type);
  }

  SourceType type;
  int64_t rows, columns;
  Unified<std::byte> bytes;
  std::byte* source;
};

struct Shape {
  int64_t rows, columns, tile_rows, tile_columns;
  int shift;
};
constexpr Shape kShapes[] = {
    {1, 1, 1, 1, 0},       {3, 7, 1, 7, 1},         {5, 300, 1, 300, 0},     {4, 2500, 4, 2500, 0},
    {3, 4103, 1, 4103, 3}, {130, 261, 128, 128, 0}, {129, 256, 128, 128, 1}, {2, 4096, 1, 4096, 0},
    {16, 64, 16, 64, 0},   {7, 129, 7, 16, 0},      {257, 100, 257, 100, 2},
};
constexpr SourceType kTypes[] = {SourceType::kBf16, SourceType::kF16, SourceType::kF32};

std::string Describe(const Shape& shape, SourceType type) {
  return std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + " in tiles of " +
         std::to_string(shape.tile_rows) + " x " + std::to_string(shape.tile_columns) + ", type " +
         std::to_string(static_cast<int>(type)) + ", shift " + std::to_string(shape.shift);
}

std::vector<uint32_t> ExpectedMaxima(const Matrix& matrix, const Shape& shape) {
  const int64_t tiles = CeilDiv(shape.columns, shape.tile_columns);
  std::vector<uint32_t> maxima(Product(CeilDiv(shape.rows, shape.tile_rows), tiles));
  for (int64_t row = 0; row < shape.rows; ++row) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t begin = tile * shape.tile_columns;
      const int64_t count = std::min(shape.tile_columns, shape.columns - begin);
      uint32_t& most = maxima[Product(row / shape.tile_rows, tiles) + static_cast<size_t>(tile)];
      most = MergeAmax(most,
                       Reference().amax(matrix.Row(row) + Product(begin, 1) * ByteSize(matrix.type),
                                        matrix.type, static_cast<size_t>(count)));
    }
  }
  return maxima;
}

Unified<uint32_t> Maxima(const Matrix& matrix, const Shape& shape) {
  const int64_t tiles = CeilDiv(shape.columns, shape.tile_columns);
  Unified<uint32_t> maxima(Product(CeilDiv(shape.rows, shape.tile_rows), tiles));
  for (uint32_t& most : maxima.span()) most = 0;
  Launch(AmaxTiles{matrix.source, matrix.type, shape.rows, shape.columns, shape.tile_rows,
                   shape.tile_columns, maxima.data()},
         nullptr);
  EXPECT_TRUE(simt::Finish());
  EXPECT_TRUE(maxima.Intact());
  return maxima;
}

TEST(CudaQuantize, MaximaOfTiles) {
  uint32_t seed = 1;
  for (const Shape& shape : kShapes) {
    for (const SourceType type : kTypes) {
      SCOPED_TRACE(Describe(shape, type));
      const Matrix matrix(type, shape.rows, shape.columns, shape.shift, seed++);
      const Unified<uint32_t> maxima = Maxima(matrix, shape);
      const std::vector<uint32_t> expected = ExpectedMaxima(matrix, shape);
      for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(maxima[i], expected[i]) << i;
    }
  }
}

TEST(CudaQuantize, MaximaTellOfNanAndInfinity) {
  const Shape shape{3, 300, 1, 100, 0};
  for (const SourceType type : kTypes) {
    for (const uint32_t bad : type == SourceType::kBf16 ? std::vector<uint32_t>{0x7f80, 0xffc1}
                              : type == SourceType::kF16
                                  ? std::vector<uint32_t>{0xfc00, 0x7e00}
                                  : std::vector<uint32_t>{0xff800000, 0x7fc00001}) {
      Matrix matrix(type, shape.rows, shape.columns, 0, 7);
      matrix.Set(300 + 199, bad);
      const Unified<uint32_t> maxima = Maxima(matrix, shape);
      for (size_t i = 0; i < maxima.size(); ++i) EXPECT_EQ(IsFiniteAmax(maxima[i]), i != 4) << i;
    }
  }
}

TEST(CudaQuantize, CodesOfTiles) {
  const FpEnv environment;
  uint32_t seed = 100;
  for (const Shape& shape : kShapes) {
    for (const SourceType type : kTypes) {
      for (const int int8_min : {0, -127, -128}) {
        SCOPED_TRACE(Describe(shape, type) + " code " + std::to_string(int8_min));
        const Matrix matrix(type, shape.rows, shape.columns, shape.shift, seed++);
        const CastRule rule{.code = int8_min == 0 ? CodeType::kFp8 : CodeType::kInt8,
                            .int8_min = int8_min == 0 ? -127 : int8_min};
        const std::vector<uint32_t> maxima = ExpectedMaxima(matrix, shape);
        Unified<float> scales(maxima.size());
        for (size_t i = 0; i < maxima.size(); ++i) {
          // Some smaller than the maximum asks for, so that codes saturate.
          scales[i] = WeightScale(maxima[i], CodeMax(rule.code), SourceType::kF32);
          if (i % 3 == 2) scales[i] = RoundScale(scales[i] * 0.37f, SourceType::kBf16);
        }
        Unified<uint8_t> codes(Product(shape.rows, shape.columns));
        Launch(CastTiles{matrix.source, type, shape.rows, shape.columns, shape.tile_rows,
                         shape.tile_columns, scales.data(), rule.code, rule.int8_min, codes.data()},
               nullptr);
        ASSERT_TRUE(simt::Finish());
        ASSERT_TRUE(codes.Intact());
        const auto columns = static_cast<size_t>(shape.columns);
        const auto tile_columns = static_cast<size_t>(shape.tile_columns);
        const size_t tiles = (columns + tile_columns - 1) / tile_columns;
        std::vector<uint8_t> expected(columns);
        for (int64_t row = 0; row < shape.rows; ++row) {
          CastFigures figures;
          // The reference wants groups of 16 columns at least; where a tile is the row, any.
          Reference().cast_row(matrix.Row(row), type, columns,
                               &scales[Product(row / shape.tile_rows, 1) * tiles], tile_columns,
                               rule, expected.data(), &figures);
          ASSERT_EQ(std::memcmp(expected.data(), &codes[Product(row, shape.columns)], columns), 0)
              << "row " << row;
        }
      }
    }
  }
}

TEST(CudaQuantize, EveryBf16Value) {
  const FpEnv environment;
  std::vector<uint16_t> finite;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    if ((bits & 0x7fff) < 0x7f80) finite.push_back(static_cast<uint16_t>(bits));
  }
  const Unified<uint16_t> source{std::span<const uint16_t>(finite)};
  const auto columns = static_cast<int64_t>(finite.size());
  for (const float scale : {1.0f, 0.0123f, 0x1p-126f, 0x1.8p-125f, 1.5e-38f, 0x1.abcdep70f}) {
    for (const CodeType code : {CodeType::kFp8, CodeType::kInt8}) {
      const Unified<float> scales{std::span<const float>(&scale, 1)};
      const Unified<uint8_t> codes(finite.size());
      Launch(CastTiles{source.data(), SourceType::kBf16, 1, columns, 1, columns, scales.data(),
                       code, -127, codes.data()},
             nullptr);
      ASSERT_TRUE(simt::Finish());
      std::vector<uint8_t> expected(finite.size());
      CastFigures figures;
      Reference().cast_row(finite.data(), SourceType::kBf16, finite.size(), &scale, finite.size(),
                           {.code = code}, expected.data(), &figures);
      for (size_t i = 0; i < finite.size(); ++i) {
        ASSERT_EQ(codes[i], expected[i]) << "bits " << finite[i] << ", scale " << scale;
      }
    }
  }
}

TEST(CudaQuantize, HistogramCountsEveryMagnitude) {
  for (const int64_t count : {int64_t{1}, int64_t{7}, int64_t{9001}}) {
    const Matrix matrix(SourceType::kBf16, 1, count, count == 9001 ? 1 : 0, 5);
    const auto* values = reinterpret_cast<const uint16_t*>(matrix.source);
    Unified<uint32_t> counts(MagnitudeHistogram::kCounters);
    std::vector<uint32_t> expected(MagnitudeHistogram::kCounters, 3);
    for (uint32_t& n : counts.span()) n = 3;  // adds to what is there
    for (int64_t i = 0; i < count; ++i) ++expected[values[i] & 0x7fff];
    Launch(MagnitudeHistogram{values, count, counts.data()}, nullptr);
    ASSERT_TRUE(simt::Finish());
    for (size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(counts[i], expected[i]) << i;
  }
}

TEST(CudaQuantize, Tokens) {
  const FpEnv environment;
  uint32_t seed = 900;
  for (const TokenScales kind :
       {TokenScales::kDynamicFp8, TokenScales::kDynamicInt8, TokenScales::kGroupsFp8,
        TokenScales::kStaticFp8, TokenScales::kStaticInt8}) {
    for (const Shape& shape : kShapes) {
      SCOPED_TRACE(Describe(shape, SourceType::kBf16) + " kind " +
                   std::to_string(static_cast<int>(kind)));
      Matrix matrix(SourceType::kBf16, shape.rows, shape.columns, shape.shift, seed++);
      for (int64_t i = 0; i < shape.columns; ++i) matrix.Set(i, i % 2 == 0 ? 0 : 0x8000);
      const auto* x = reinterpret_cast<const uint16_t*>(matrix.source);
      const auto columns = static_cast<size_t>(shape.columns);
      const size_t groups = kind == TokenScales::kGroupsFp8 ? (columns + 127) / 128 : 1;
      const float factor = 37.25f;
      const Unified<uint8_t> codes(Product(shape.rows, shape.columns));
      const Unified<float> scales(static_cast<size_t>(shape.rows) * groups);
      const Unified<uint32_t> worst(1);
      worst[0] = 0;
      Launch(QuantizeTokens{kind, x, shape.rows, shape.columns, factor, codes.data(), scales.data(),
                            worst.data()},
             nullptr);
      ASSERT_TRUE(simt::Finish());
      ASSERT_TRUE(codes.Intact() && scales.Intact() && worst.Intact());
      EXPECT_EQ(worst[0], 0u);
      for (size_t row = 0; row < static_cast<size_t>(shape.rows); ++row) {
        const Token expected = ExpectedToken(kind, x + row * columns, columns, factor);
        for (size_t i = 0; i < expected.scales.size(); ++i) {
          ASSERT_EQ(scales[row * groups + i], expected.scales[i]) << row << ", " << i;
        }
        for (size_t i = 0; i < columns; ++i) {
          ASSERT_EQ(codes[row * columns + i], expected.codes[i]) << row << ", " << i;
        }
      }
    }
  }
}

TEST(CudaQuantize, ExpertsHaveStaticFactorsOfTheirOwn) {
  const FpEnv environment;
  constexpr size_t kColumns = 333;
  const std::vector<int32_t> offsets = {0, 0, 3, 4, 4, 9};  // the first and the fourth have no rows
  const std::vector<float> factors = {1, 37.25f, 0.5f, 2, 900};
  const Unified<int32_t> expert_offsets{std::span<const int32_t>(offsets)};
  const Unified<float> expert_factors{std::span<const float>(factors)};
  const Matrix matrix(SourceType::kBf16, 9, kColumns, 0, 77);
  const auto* x = reinterpret_cast<const uint16_t*>(matrix.source);
  for (const TokenScales kind : {TokenScales::kStaticFp8, TokenScales::kStaticInt8}) {
    const Unified<uint8_t> codes(9 * kColumns);
    Launch(QuantizeTokens{.kind = kind,
                          .x = x,
                          .rows = 9,
                          .columns = kColumns,
                          .codes = codes.data(),
                          .expert_factors = expert_factors.data(),
                          .expert_offsets = expert_offsets.data()},
           nullptr);
    ASSERT_TRUE(simt::Finish());
    ASSERT_TRUE(codes.Intact());
    for (size_t row = 0; row < 9; ++row) {
      const float factor = factors[row < 3 ? 1 : row < 4 ? 2 : 4];
      const Token expected = ExpectedToken(kind, x + row * kColumns, kColumns, factor);
      for (size_t i = 0; i < kColumns; ++i) {
        ASSERT_EQ(codes[row * kColumns + i], expected.codes[i]) << row << ", " << i;
      }
    }
  }
}

TEST(CudaQuantize, TokensTellOfNanAndInfinity) {
  for (const TokenScales kind :
       {TokenScales::kDynamicFp8, TokenScales::kDynamicInt8, TokenScales::kGroupsFp8,
        TokenScales::kStaticFp8, TokenScales::kStaticInt8}) {
    for (const uint32_t bad : {0x7f80u, 0xff80u, 0x7fc0u, 0xffffu}) {
      Matrix matrix(SourceType::kBf16, 4, 333, 0, 11);
      matrix.Set(2 * 333 + 331, bad);
      const Unified<uint8_t> codes(4 * 333);
      const Unified<float> scales(4 * 3);
      const Unified<uint32_t> worst(1);
      worst[0] = 0;
      Launch(QuantizeTokens{kind, reinterpret_cast<const uint16_t*>(matrix.source), 4, 333, 1,
                            codes.data(), scales.data(), worst.data()},
             nullptr);
      ASSERT_TRUE(simt::Finish());
      EXPECT_FALSE(IsFiniteAmax(worst[0])) << bad;
    }
  }
}

TEST(CudaQuantize, NoRowsIsNoWork) {
  const Unified<uint8_t> codes(1);
  Launch(
      QuantizeTokens{TokenScales::kDynamicFp8, nullptr, 0, 64, 1, codes.data(), nullptr, nullptr},
      nullptr);
  Launch(CastTiles{nullptr, SourceType::kBf16, 0, 64, 1, 64, nullptr, CodeType::kFp8, -127,
                   codes.data()},
         nullptr);
  Launch(AmaxTiles{nullptr, SourceType::kF32, 0, 64, 1, 64, nullptr}, nullptr);
  Launch(MagnitudeHistogram{nullptr, 0, nullptr}, nullptr);
  EXPECT_TRUE(simt::Finish());
  EXPECT_TRUE(codes.Intact());
}

}  // namespace
}  // namespace octavo::cuda
