// The kernels quantize 16-bit sources without a division: y = x * r, z = fma(fma(-y, s, x), r, y)
// with r = RN(1/s). This tries every significand of the scale against every significand that a BF16
// or F16 source can have, and wants RN(x/s) each time. Exponents do not matter: all steps scale by
// powers of two.

#include <cmath>
#include <cstdint>

#include "core/tensor/bare/float_bits.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

// Wrong quotients for one scale and all x in [1, 2) of `mantissa_bits`.
[[gnu::target("avx2,fma")]] uint32_t WrongQuotients(float scale, uint32_t mantissa_bits) {
  const float reciprocal = 1.0f / scale;
  uint32_t wrong = 0;
  const uint32_t count = 1u << mantissa_bits;
  for (uint32_t i = 0; i < count; ++i) {
    const float x = FloatFromBits(0x3f800000u | (i << (23 - mantissa_bits)));
    const float y = x * reciprocal;
    const float z = __builtin_fmaf(__builtin_fmaf(-y, scale, x), reciprocal, y);
    wrong += BitsOf(z) != BitsOf(x / scale) ? 1u : 0u;
  }
  return wrong;
}

bool HasFma() { return __builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2"); }

TEST(ExactQuotient, ForEveryPairOfBf16SourceAndF32Scale) {
  if (!HasFma()) return;  // the kernels that use this do not run here either
  uint64_t wrong = 0;
  for (uint32_t m = 0; m < (1u << 23); ++m)
    wrong += WrongQuotients(FloatFromBits(0x3f800000 | m), 7);
  EXPECT_EQ(wrong, 0u);
}

TEST(ExactQuotient, ForEveryPairOfF16SourceAndF32Scale) {
  if (!HasFma()) return;
  uint64_t wrong = 0;
  for (uint32_t m = 0; m < (1u << 23); ++m) {
    wrong += WrongQuotients(FloatFromBits(0x3f800000 | m), 10);
  }
  EXPECT_EQ(wrong, 0u);
}

}  // namespace
}  // namespace octavo
