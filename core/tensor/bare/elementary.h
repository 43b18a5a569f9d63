#pragma once

// Elementary functions of our own, so that no bit depends on a C library or a vector width. Vector
// kernels repeat the operations of Exp step by step and give the same bits.
//
// Errors against the true value, tested against F64 (tests/core/tensor/elementary_test.cc):
//   Exp     under 1 ulp on [-87.3365, 88.7228]
//   Log     under 0.51 ulp on every positive normal number
//   Rsqrt   under 1.5 ulp (two correctly rounded operations)
//   Pow     under 0.51 ulp for positive bases with results in the normal range
//   SinCos  under 0.51 ulp, or 2^-52 absolute where larger, for |x| <= 2^20
// Subnormal arguments and results are zeros, as FpEnv makes them.

#include "core/tensor/bare/float_bits.h"

namespace octavo {

// Constants of Exp, shared with the vector kernels.
inline constexpr float kExpMin = -87.3365f;  // below: +0 (the result would be subnormal)
inline constexpr float kExpMax = 88.7228f;   // above: infinity
inline constexpr float kExpLog2E = 0x1.715476p+0f;
// ln 2 in two parts; n * kExpLn2High is exact for |n| <= 128.
inline constexpr float kExpLn2High = 0x1.62e4p-1f;
inline constexpr float kExpLn2Low = 0x1.7f7d1cp-20f;
inline constexpr float kExpRound = 0x1.8p+23f;  // adding it rounds to an integer, nearest even
// (e^r - 1 - r) / r^2 on |r| <= ln(2)/2, interpolated at six Chebyshev nodes.
inline constexpr float kExpC0 = 0.5f;
inline constexpr float kExpC1 = 0x1.555556p-3f;
inline constexpr float kExpC2 = 0x1.5554eap-5f;
inline constexpr float kExpC3 = 0x1.1110e0p-7f;
inline constexpr float kExpC4 = 0x1.6d4324p-10f;
inline constexpr float kExpC5 = 0x1.a124f2p-13f;

// e^x. NaN gives NaN.
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline float Exp(float x) {
  if (!(x >= kExpMin)) return x != x ? x : 0.0f;
  if (x > kExpMax) return FloatFromBits(kF32InfBits);
  const float shifted = __builtin_fmaf(x, kExpLog2E, kExpRound);
  const float n = shifted - kExpRound;
  float r = __builtin_fmaf(n, -kExpLn2High, x);
  r = __builtin_fmaf(n, -kExpLn2Low, r);
  float q = __builtin_fmaf(kExpC5, r, kExpC4);
  q = __builtin_fmaf(q, r, kExpC3);
  q = __builtin_fmaf(q, r, kExpC2);
  q = __builtin_fmaf(q, r, kExpC1);
  q = __builtin_fmaf(q, r, kExpC0);
  const float p = __builtin_fmaf(q, r * r, r) + 1.0f;
  // 2^n in two factors, because n reaches 128.
  const int32_t exponent = static_cast<int32_t>(BitsOf(shifted) - BitsOf(kExpRound));
  const int32_t half = exponent >> 1;
  const float low = FloatFromBits(static_cast<uint32_t>(half + 127) << 23);
  const float high = FloatFromBits(static_cast<uint32_t>(exponent - half + 127) << 23);
  return (p * low) * high;
}

// 1 / sqrt(x). REQUIRES x > 0.
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline float Rsqrt(float x) {
  return 1.0f / __builtin_sqrtf(x);
}

namespace elementary_internal {

// ln x for a positive normal F64; relative error under 2^-48.
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline double Log64(double x) {
  const uint64_t bits = BitsOf(x);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  double m = DoubleFromBits((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  // ln m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.1716.
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double sum = 1.0 / 21.0;
  for (int k = 19; k >= 1; k -= 2) sum = __builtin_fma(sum, z, 1.0 / k);
  return __builtin_fma(static_cast<double>(exponent), 0.6931471805599453, 2.0 * s * sum);
}

// e^x for |x| < 700; relative error under 2^-50.
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline double Exp64(double x) {
  const double shifted = x * 1.4426950408889634 + 0x1.8p+52;
  const double n = shifted - 0x1.8p+52;
  double r = __builtin_fma(n, -0x1.62e42fefap-1, x);  // ln 2, upper 36 bits
  r = __builtin_fma(n, -0x1.cf79abc9e3b398p-40, r);   // and the rest
  double sum = 1.0;
  for (int k = 14; k >= 1; --k) sum = __builtin_fma(sum, r / k, 1.0);
  const int64_t exponent = static_cast<int64_t>(n);
  return sum * DoubleFromBits(static_cast<uint64_t>(exponent + 1023) << 52);
}

}  // namespace elementary_internal

// Natural logarithm. Log(0) = -infinity, Log(+infinity) = +infinity; NaN for negative x and NaN.
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline float Log(float x) {
  const uint32_t bits = BitsOf(x);
  if ((bits & kF32MagnitudeMask) < kF32MinNormalBits) return -FloatFromBits(kF32InfBits);
  if (bits == kF32InfBits) return x;
  if (bits > kF32InfBits) return FloatFromBits(0x7fc00000u);
  return static_cast<float>(elementary_internal::Log64(x));
}

// base ^ exponent. REQUIRES base > 0 and a result within the normal F32 range.
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline float Pow(double base, double exponent) {
  return static_cast<float>(
      elementary_internal::Exp64(exponent * elementary_internal::Log64(base)));
}

struct SinCosPair {
  float sin;
  float cos;
};

// REQUIRES |x| <= 2^20 (larger arguments lose accuracy); NaN and infinity give NaN.
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline SinCosPair SinCos(float x) {
  const double wide = x;
  const double shifted = wide * 0.6366197723675814 + 0x1.8p+52;  // 2 / pi
  const double n = shifted - 0x1.8p+52;
  double r = __builtin_fma(n, -0x1.921fb544p+0, wide);  // pi / 2, upper 32 bits: exact product
  r = __builtin_fma(n, -0x1.0b4611a626331p-34, r);
  const double z = r * r;
  double sin_sum = 1.0;
  for (int k = 16; k >= 2; k -= 2) sin_sum = __builtin_fma(sin_sum, -z / (k * (k + 1)), 1.0);
  double cos_sum = 1.0;
  for (int k = 17; k >= 1; k -= 2) cos_sum = __builtin_fma(cos_sum, -z / (k * (k + 1)), 1.0);
  const float sine = static_cast<float>(sin_sum * r);
  const float cosine = static_cast<float>(cos_sum);
  switch (BitsOf(shifted) & 3u) {
    case 0:
      return {sine, cosine};
    case 1:
      return {cosine, -sine};
    case 2:
      return {-sine, -cosine};
    default:
      return {-cosine, sine};
  }
}

}  // namespace octavo
