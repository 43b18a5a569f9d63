#pragma once

// d^2.4, the error measure of the MSE search over weight scales. A fixed exponent needs no
// logarithm: with d = 2^e * m, m in [1, 2), e = 5a + b, 0 <= b < 5,
//   d^2.4 = 2^(12a) * 2^(2.4 b) * m^2.4,
// an exponent shift, a table of five constants and a polynomial. Vector kernels repeat the same
// operations and give the same bits. Relative error under 3e-7
// (tests/core/tensor/values_test.cc).

#include <cstdint>

#include "core/tensor/bare/float_bits.h"

namespace octavo {

// m^2.4 on [1, 2) in u = m - 1.5, interpolated at eight Chebyshev nodes.
inline constexpr float kErrorPowerC[8] = {0x1.52b5f4p+1f,   0x1.0ef7f6p+2f,  0x1.f9ced4p+0f,
                                          0x1.67afaep-3f,   -0x1.1f8ce6p-6f, 0x1.ea6d4ep-9f,
                                          -0x1.2fa386p-10f, 0x1.a662d6p-12f};
// 2^(2.4 b).
inline constexpr float kErrorPowerTable[5] = {0x1.000000p+0f, 0x1.51cb46p+2f, 0x1.bdb8cep+4f,
                                              0x1.261118p+7f, 0x1.840600p+9f};
// Below this, 0; above the other, its own power: far outside of what a code can be off by.
inline constexpr float kErrorPowerMin = 0x1p-50f;
inline constexpr float kErrorPowerMax = 0x1p50f;

struct ErrorPowerParts {
  float value;   // 2^(2.4 b) * m^2.4, within [1, 4097)
  int exponent;  // 12a
};

// REQUIRES: d normal and > 0.
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline ErrorPowerParts SplitErrorPower(float d) {
  const uint32_t bits = BitsOf(d);
  const uint32_t shifted = (bits >> 23) + 3;         // e + 130
  const uint32_t quotient = (shifted * 205u) >> 10;  // floor(shifted / 5) = a + 26
  const uint32_t rest = shifted - 5 * quotient;      // b
  const float u = FloatFromBits((bits & 0x007fffffu) | 0x3f800000u) - 1.5f;
  float p = kErrorPowerC[7];
  for (int k = 6; k >= 0; --k) p = __builtin_fmaf(p, u, kErrorPowerC[k]);
  return {p * kErrorPowerTable[rest], 12 * (static_cast<int>(quotient) - 26)};
}

// d^2.4 for d >= 0.
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline float ErrorPower(float d) {
  if (d < kErrorPowerMin) return 0.0f;
  const ErrorPowerParts parts = SplitErrorPower(d > kErrorPowerMax ? kErrorPowerMax : d);
  return FloatFromBits(BitsOf(parts.value) + (static_cast<uint32_t>(parts.exponent) << 23));
}

// The same in F64 without limits: the power of a scale. REQUIRES: d normal and > 0.
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline double ErrorPowerOfScale(float d) {
  const ErrorPowerParts parts = SplitErrorPower(d);
  return static_cast<double>(parts.value) *
         DoubleFromBits(static_cast<uint64_t>(parts.exponent + 1023) << 52);
}

}  // namespace octavo
