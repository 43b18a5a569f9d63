// GPU norms against the reference, bit for bit. Runs on the host twin of simt.h everywhere and, in
// octavo-gpu-check, on a GPU.

#include "kernels/cuda/norm/norm.h"

#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"
#include "kernels/norm.h"
#include "tests/kernels/cuda/expected_token.h"

namespace octavo::cuda {
namespace {

using simt::Unified;

constexpr float kEps = 1e-5f;
constexpr NormKind kNorms[] = {NormKind::kRms, NormKind::kLayer};

// Rows that a norm reads, at offsets that may spoil their alignment, and room for the result.
struct Rows {
  Rows(int64_t r, int64_t c, size_t shift, uint32_t seed)
      : rows(static_cast<size_t>(r)),
        columns(static_cast<size_t>(c)),
        x_memory(rows * columns + shift),
        weight_memory(columns + shift),
        out_memory(rows * columns + shift),
        x(x_memory.data() + shift),
        weight(weight_memory.data() + shift),
        out(out_memory.data() + shift) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.3f, 2.0f);
    for (size_t i = 0; i < rows * columns; ++i) x[i] = Bf16FromF32(normal(random));
    for (size_t i = 0; i < columns; ++i) weight[i] = Bf16FromF32(normal(random));
    for (size_t i = 0; i < rows * columns; i += 13) x[i] = static_cast<uint16_t>(random() % 128);
  }
  NormRows Call(NormKind kind) const {
    return {.kind = kind,
            .x = x,
            .rows = static_cast<int64_t>(rows),
            .columns = static_cast<int64_t>(columns),
            .weight = weight,
            .eps = kEps,
            .out = out};
  }
  std::vector<uint16_t> Expected(NormKind kind, size_t row) const {
    const NormOps& ops = NormOpsFor(Isa::kReference);
    std::vector<uint16_t> normed(columns);
    (kind == NormKind::kRms ? ops.rms_norm : ops.layer_norm)(
        x + row * columns, weight, static_cast<int64_t>(columns), kEps, normed.data());
    return normed;
  }
  void ExpectOut(size_t row, const std::vector<uint16_t>& expected) const {
    ASSERT_TRUE(x_memory.Intact() && weight_memory.Intact() && out_memory.Intact());
    for (size_t i = 0; i < columns; ++i) {
      ASSERT_EQ(out[row * columns + i], expected[i]) << "row " << row << ", " << i;
    }
  }

  size_t rows, columns;
  Unified<uint16_t> x_memory, weight_memory, out_memory;
  uint16_t *x, *weight, *out;
};

struct Shape {
  int64_t rows, columns;
  size_t shift;
};
constexpr Shape kShapes[] = {{1, 1, 0},    {3, 7, 1},    {2, 127, 0},  {2, 128, 0}, {3, 129, 2},
                             {2, 2047, 0}, {1, 2048, 8}, {2, 2052, 4}, {1, 4103, 3}};

std::string Describe(const Shape& shape, NormKind kind) {
  return std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + ", shift " +
         std::to_string(shape.shift) + (kind == NormKind::kRms ? ", RMS" : ", layer");
}

TEST(CudaNorm, Rows) {
  const FpEnv environment;
  uint32_t seed = 1;
  for (const Shape& shape : kShapes) {
    for (const NormKind kind : kNorms) {
      SCOPED_TRACE(Describe(shape, kind));
      const Rows rows(shape.rows, shape.columns, shape.shift, seed++);
      Launch(rows.Call(kind), nullptr);
      ASSERT_TRUE(simt::Finish());
      for (size_t row = 0; row < rows.rows; ++row) rows.ExpectOut(row, rows.Expected(kind, row));
    }
  }
}

TEST(CudaNorm, CodesAreThoseOfTheRows) {
  const FpEnv environment;
  uint32_t seed = 100;
  for (const Shape& shape : kShapes) {
    for (const NormKind kind : kNorms) {
      for (const TokenScales scales : kTokenScales) {
        SCOPED_TRACE(Describe(shape, kind) + ", codes " + std::to_string(static_cast<int>(scales)));
        const Rows rows(shape.rows, shape.columns, shape.shift, seed++);
        const CodedRows coded(scales, shape.rows, shape.columns);
        NormRows call = rows.Call(kind);
        call.codes = coded.Call();
        if (seed % 2 == 0) call.out = nullptr;
        Launch(call, nullptr);
        ASSERT_TRUE(simt::Finish());
        EXPECT_EQ(coded.worst(), 0u);
        for (size_t row = 0; row < rows.rows; ++row) {
          const std::vector<uint16_t> expected = rows.Expected(kind, row);
          coded.ExpectRow(row, expected.data());
          if (call.out != nullptr) rows.ExpectOut(row, expected);
        }
      }
    }
  }
}

// A block's 8 warps hold 256 columns each.
TEST(CudaNorm, TheLargestMayLieAnywhere) {
  const FpEnv environment;
  for (const TokenScales scales : {TokenScales::kDynamicFp8, TokenScales::kDynamicInt8}) {
    const Rows rows(8, 2048, 0, 77);
    for (size_t row = 0; row < 8; ++row) {
      rows.x[row * 2048 + row * 256 + row * 36] = 0xc2c8;  // -100
    }
    for (size_t i = 0; i < 2048; ++i) rows.weight[i] = 0x3f80;
    const CodedRows coded(scales, 8, 2048);
    NormRows call = rows.Call(NormKind::kRms);
    call.codes = coded.Call();
    Launch(call, nullptr);
    ASSERT_TRUE(simt::Finish());
    for (size_t row = 0; row < 8; ++row) {
      coded.ExpectRow(row, rows.Expected(NormKind::kRms, row).data());
    }
  }
}

TEST(CudaNorm, InPlace) {
  const FpEnv environment;
  for (const NormKind kind : kNorms) {
    const Rows rows(3, 2500, 0, 7);
    std::vector<std::vector<uint16_t>> expected;
    for (size_t row = 0; row < 3; ++row) expected.push_back(rows.Expected(kind, row));
    NormRows call = rows.Call(kind);
    call.out = rows.x;
    Launch(call, nullptr);
    ASSERT_TRUE(simt::Finish());
    ASSERT_TRUE(rows.x_memory.Intact());
    for (size_t i = 0; i < 3 * 2500; ++i) ASSERT_EQ(rows.x[i], expected[i / 2500][i % 2500]) << i;
  }
}

TEST(CudaNorm, PickedRows) {
  const FpEnv environment;
  const Rows rows(5, 300, 0, 8);
  const std::vector<int32_t> picked = {4, 1, 1};
  const Unified<int32_t> source{std::span<const int32_t>(picked)};
  NormRows call = rows.Call(NormKind::kRms);
  call.source_rows = source.data();
  call.rows = 3;
  Launch(call, nullptr);
  ASSERT_TRUE(simt::Finish());
  for (size_t row = 0; row < 3; ++row) {
    rows.ExpectOut(row, rows.Expected(NormKind::kRms, static_cast<size_t>(picked[row])));
  }
  for (size_t i = 3 * 300; i < 5 * 300; ++i) ASSERT_EQ(rows.out[i], 0xa5a5) << i;
}

// Zeros, rows whose squares overflow, and rows of subnormals only.
TEST(CudaNorm, RowsAtTheEdgeOfTheRange) {
  const FpEnv environment;
  for (const NormKind kind : kNorms) {
    const Rows rows(4, 333, 0, 9);
    for (size_t i = 0; i < 333; ++i) {
      rows.x[i] = i % 2 == 0 ? 0 : 0x8000;
      rows.x[333 + i] = i == 332 ? 0x7f00 : 0x7f7f;
      rows.x[666 + i] = static_cast<uint16_t>(i % 127);
      rows.x[999 + i] = 0x3f80;
    }
    const CodedRows coded(TokenScales::kDynamicFp8, 4, 333);
    NormRows call = rows.Call(kind);
    call.codes = coded.Call();
    Launch(call, nullptr);
    ASSERT_TRUE(simt::Finish());
    for (size_t row = 0; row < 4; ++row) {
      const std::vector<uint16_t> expected = rows.Expected(kind, row);
      bool nan = false;
      for (const uint16_t bits : expected) nan = nan || (bits & 0x7fff) > 0x7f80;
      if (nan) {
        EXPECT_FALSE(IsFiniteAmax(coded.worst()));
      } else {
        rows.ExpectOut(row, expected);
        coded.ExpectRow(row, expected.data());
      }
    }
  }
}

TEST(CudaNorm, NanAndInfinityStayInTheirRow) {
  const FpEnv environment;
  for (const NormKind kind : kNorms) {
    for (const TokenScales scales : kTokenScales) {
      for (const uint16_t bad : {0x7f80, 0xff80, 0x7fc0, 0xffff}) {
        const Rows rows(3, 260, 0, 10);
        rows.x[260 + 259] = bad;
        const CodedRows coded(scales, 3, 260);
        NormRows call = rows.Call(kind);
        call.codes = coded.Call();
        Launch(call, nullptr);
        ASSERT_TRUE(simt::Finish());
        EXPECT_FALSE(IsFiniteAmax(coded.worst())) << bad;
        EXPECT_GT(rows.out[260 + 259] & 0x7fff, 0x7f80) << bad;
        for (const size_t row : {size_t{0}, size_t{2}}) {
          const std::vector<uint16_t> expected = rows.Expected(kind, row);
          rows.ExpectOut(row, expected);
          coded.ExpectRow(row, expected.data());
        }
      }
    }
  }
}

TEST(CudaNorm, NoRowsIsNoWork) {
  Launch(NormRows{.rows = 0, .columns = 64}, nullptr);
  Launch(NormRows{.rows = 3, .columns = 0}, nullptr);
  EXPECT_TRUE(simt::Finish());
}

}  // namespace
}  // namespace octavo::cuda
