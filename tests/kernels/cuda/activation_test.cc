// GPU activations against the reference, bit for bit. Runs on the host twin of simt.h everywhere
// and, in octavo-gpu-check, on a GPU.

#include "kernels/cuda/activation/activation.h"

#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"
#include "kernels/activation.h"
#include "tests/kernels/cuda/expected_token.h"

namespace octavo::cuda {
namespace {

using simt::Unified;

bool IsNan(uint16_t bits) { return (bits & 0x7fff) > 0x7f80; }

std::vector<uint16_t> Silu(const uint16_t* gate, const uint16_t* up, size_t count) {
  std::vector<uint16_t> out(count);
  ActivationOpsFor(Isa::kReference)
      .silu_multiply(gate, up, static_cast<int64_t>(count), out.data());
  return out;
}

// Gate and up in one matrix, side by side where `apart`, at an offset that may spoil alignment.
struct Gated {
  Gated(int64_t r, int64_t c, size_t shift, bool apart, uint32_t seed)
      : rows(static_cast<size_t>(r)),
        columns(static_cast<size_t>(c)),
        stride(apart ? 2 * columns + 8 : columns),
        memory(2 * rows * stride + shift),
        out(rows * columns),
        gate(memory.data() + shift),
        up(apart ? gate + columns : gate + rows * columns) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 3.0f);
    for (size_t i = shift; i < memory.size(); ++i) {
      const auto any = static_cast<uint16_t>(random() & 0x83ff);
      memory[i] = i % 7 == 0 ? any : Bf16FromF32(normal(random));
    }
  }
  SiluMultiply Call() const {
    return {.gate = gate,
            .up = up,
            .rows = static_cast<int64_t>(rows),
            .columns = static_cast<int64_t>(columns),
            .stride = static_cast<int64_t>(stride),
            .out = out.data()};
  }
  std::vector<uint16_t> Expected(size_t row) const {
    return Silu(gate + row * stride, up + row * stride, columns);
  }
  void ExpectOut(size_t row, const std::vector<uint16_t>& expected) const {
    ASSERT_TRUE(memory.Intact() && out.Intact());
    for (size_t i = 0; i < columns; ++i) {
      ASSERT_EQ(out[row * columns + i], expected[i]) << "row " << row << ", " << i;
    }
  }

  size_t rows, columns, stride;
  Unified<uint16_t> memory, out;
  uint16_t *gate, *up;
};

struct Shape {
  int64_t rows, columns;
  size_t shift;
  bool apart;
};
constexpr Shape kShapes[] = {{1, 1, 0, false},   {3, 7, 1, true},     {2, 127, 0, false},
                             {2, 128, 0, true},  {3, 129, 2, false},  {2, 1023, 0, true},
                             {2, 1024, 8, true}, {2, 1032, 4, false}, {1, 9001, 3, true}};

std::string Describe(const Shape& shape) {
  return std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + ", shift " +
         std::to_string(shape.shift) + (shape.apart ? ", apart" : "");
}

TEST(CudaActivation, SiluOfRows) {
  const FpEnv environment;
  uint32_t seed = 1;
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(Describe(shape));
    const Gated gated(shape.rows, shape.columns, shape.shift, shape.apart, seed++);
    Launch(gated.Call(), nullptr);
    ASSERT_TRUE(simt::Finish());
    for (size_t row = 0; row < gated.rows; ++row) gated.ExpectOut(row, gated.Expected(row));
  }
}

TEST(CudaActivation, CodesAreThoseOfTheRows) {
  const FpEnv environment;
  uint32_t seed = 100;
  for (const Shape& shape : kShapes) {
    for (const TokenScales scales : kTokenScales) {
      for (const bool with_out : {false, true}) {
        SCOPED_TRACE(Describe(shape) + ", codes " + std::to_string(static_cast<int>(scales)));
        const Gated gated(shape.rows, shape.columns, shape.shift, shape.apart, seed++);
        const CodedRows coded(scales, shape.rows, shape.columns);
        SiluMultiply call = gated.Call();
        call.codes = coded.Call();
        if (!with_out) call.out = nullptr;
        Launch(call, nullptr);
        ASSERT_TRUE(simt::Finish());
        EXPECT_EQ(coded.worst(), 0u);
        for (size_t row = 0; row < gated.rows; ++row) {
          const std::vector<uint16_t> expected = gated.Expected(row);
          coded.ExpectRow(row, expected.data());
          if (with_out) gated.ExpectOut(row, expected);
        }
      }
    }
  }
}

// A block's 16 warps hold 256 columns each.
TEST(CudaActivation, TheLargestMayLieAnywhere) {
  const FpEnv environment;
  for (const TokenScales scales : {TokenScales::kDynamicFp8, TokenScales::kDynamicInt8}) {
    const Gated gated(16, 4096, 0, true, 77);
    for (size_t row = 0; row < 16; ++row) {
      gated.gate[row * gated.stride + row * 256 + row * 37 % 256] = 0x42c8;  // 100
      gated.up[row * gated.stride + row * 256 + row * 37 % 256] = 0xc2c8;
    }
    const CodedRows coded(scales, 16, 4096);
    SiluMultiply call = gated.Call();
    call.codes = coded.Call();
    Launch(call, nullptr);
    ASSERT_TRUE(simt::Finish());
    for (size_t row = 0; row < 16; ++row) coded.ExpectRow(row, gated.Expected(row).data());
  }
}

TEST(CudaActivation, SiluOfEveryValueInPlace) {
  const FpEnv environment;
  for (const float factor : {1.0f, -0.3f, 1e30f}) {
    Unified<uint16_t> gate(65536), up(65536);
    for (size_t i = 0; i < 65536; ++i) {
      gate[i] = static_cast<uint16_t>(i);
      up[i] = Bf16FromF32(factor);
    }
    const std::vector<uint16_t> expected = Silu(gate.data(), up.data(), 65536);
    Launch(SiluMultiply{.gate = gate.data(),
                        .up = up.data(),
                        .rows = 1,
                        .columns = 65536,
                        .stride = 65536,
                        .out = factor == 1.0f ? up.data() : gate.data()},
           nullptr);
    ASSERT_TRUE(simt::Finish());
    for (size_t i = 0; i < 65536; ++i) {
      const uint16_t got = factor == 1.0f ? up[i] : gate[i];
      ASSERT_EQ(IsNan(got), IsNan(expected[i])) << i;
      if (!IsNan(got)) {
        ASSERT_EQ(got, expected[i]) << i;
      }
    }
  }
}

TEST(CudaActivation, NanAndInfinityStayInTheirRow) {
  const FpEnv environment;
  for (const TokenScales scales : kTokenScales) {
    for (const uint16_t bad : {0x7f80, 0xff80, 0x7fc0, 0xffff}) {
      const Gated gated(3, 260, 0, true, 10);
      gated.gate[gated.stride + 259] = bad;
      const CodedRows coded(scales, 3, 260);
      SiluMultiply call = gated.Call();
      call.codes = coded.Call();
      Launch(call, nullptr);
      ASSERT_TRUE(simt::Finish());
      EXPECT_FALSE(IsFiniteAmax(coded.worst())) << bad;
      for (const size_t row : {size_t{0}, size_t{2}}) {
        const std::vector<uint16_t> expected = gated.Expected(row);
        gated.ExpectOut(row, expected);
        coded.ExpectRow(row, expected.data());
      }
    }
  }
}

TEST(CudaActivation, ClipOfEveryValue) {
  const FpEnv environment;
  for (const float limit : {8.0f, 0.1f, 3.0000002f, 0x1p-126f, 3.3e38f, 3.4028235e38f}) {
    Unified<uint16_t> x(65536 + 1);
    std::vector<uint16_t> expected;
    for (size_t i = 0; i < 65536; ++i) expected.push_back(x[i + 1] = static_cast<uint16_t>(i));
    ActivationOpsFor(Isa::kReference).clip(expected.data(), 65536, limit);
    x[0] = 0x7f00;
    Launch(Clip{x.data() + 1, 1, 65536, 65536, limit}, nullptr);
    ASSERT_TRUE(simt::Finish());
    ASSERT_TRUE(x.Intact());
    EXPECT_EQ(x[0], 0x7f00);
    for (size_t i = 0; i < 65536; ++i) ASSERT_EQ(x[i + 1], expected[i]) << i << ", " << limit;
  }
}

TEST(CudaActivation, ClipLeavesWhatIsBetweenRows) {
  const FpEnv environment;
  for (const size_t columns : {1, 7, 8, 1023, 1024, 1100}) {
    const size_t stride = columns + 5;
    Unified<uint16_t> x(3 * stride);
    for (uint16_t& bits : x.span()) bits = 0xc120;  // -10
    Launch(Clip{x.data(), 3, static_cast<int64_t>(columns), static_cast<int64_t>(stride), 8},
           nullptr);
    ASSERT_TRUE(simt::Finish());
    ASSERT_TRUE(x.Intact());
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(x[i], i % stride < columns ? 0xc100 : 0xc120) << columns << ", " << i;
    }
  }
}

TEST(CudaActivation, NoRowsIsNoWork) {
  for (const TokenScales scales : kTokenScales) {
    const CodedRows coded(scales, 1, 64);
    Launch(SiluMultiply{.rows = 0, .columns = 64, .stride = 64, .codes = coded.Call()}, nullptr);
    Launch(SiluMultiply{.rows = 2, .columns = 0, .stride = 64, .codes = coded.Call()}, nullptr);
  }
  Launch(SiluMultiply{.rows = 0, .columns = 64, .stride = 64}, nullptr);
  Launch(Clip{nullptr, 0, 64, 64, 1}, nullptr);
  Launch(Clip{nullptr, 2, 0, 64, 1}, nullptr);
  EXPECT_TRUE(simt::Finish());
}

}  // namespace
}  // namespace octavo::cuda
