#pragma once

// Conversions between F32, BF16 and F16, in integer code: their results do not depend on the
// floating-point environment (subnormals are converted exactly, never flushed).
//
// Functions of this folder are always inlined, so that a translation unit compiled for a wider
// instruction set never exports a copy that the rest of the program might be linked to.

#include <cstdint>

// Marks what a GPU computes too and what is no constant expression for every compiler. (Functions
// that are constexpr need no mark there.)
#if defined(__CUDACC__)
#define OCTAVO_EVERYWHERE __host__ __device__
#else
#define OCTAVO_EVERYWHERE
#endif

namespace octavo {

[[gnu::always_inline]] inline constexpr uint32_t BitsOf(float value) {
  return __builtin_bit_cast(uint32_t, value);
}
[[gnu::always_inline]] inline constexpr uint64_t BitsOf(double value) {
  return __builtin_bit_cast(uint64_t, value);
}
[[gnu::always_inline]] inline constexpr float FloatFromBits(uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}
[[gnu::always_inline]] inline constexpr double DoubleFromBits(uint64_t bits) {
  return __builtin_bit_cast(double, bits);
}

inline constexpr uint32_t kF32SignBit = 0x80000000u;
inline constexpr uint32_t kF32MagnitudeMask = 0x7fffffffu;
inline constexpr uint32_t kF32InfBits = 0x7f800000u;
inline constexpr uint32_t kF32MinNormalBits = 0x00800000u;  // 2^-126
inline constexpr float kF32MinNormal = 0x1p-126f;

// BF16 is the upper half of an F32: exact.
[[gnu::always_inline]] inline constexpr float F32FromBf16(uint16_t bf16) {
  return FloatFromBits(static_cast<uint32_t>(bf16) << 16);
}

// Round to nearest even. Overflow gives infinity; NaN stays NaN (quiet, sign and upper payload
// kept).
[[gnu::always_inline]] inline constexpr uint16_t Bf16FromF32(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & kF32MagnitudeMask) > kF32InfBits) {
    return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  }
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Exact; F16 subnormals become normal F32 numbers.
[[gnu::always_inline]] inline constexpr float F32FromF16(uint16_t f16) {
  const uint32_t sign = static_cast<uint32_t>(f16 & 0x8000u) << 16;
  const uint32_t exponent = (f16 >> 10) & 0x1fu;
  uint32_t mantissa = f16 & 0x3ffu;
  if (exponent == 0x1f) return FloatFromBits(sign | kF32InfBits | (mantissa << 13));
  if (exponent != 0) return FloatFromBits(sign | ((exponent + 112u) << 23) | (mantissa << 13));
  if (mantissa == 0) return FloatFromBits(sign);
  uint32_t shift = 0;
  while ((mantissa & 0x400u) == 0) {
    mantissa <<= 1;
    ++shift;
  }
  return FloatFromBits(sign | ((113u - shift) << 23) | ((mantissa & 0x3ffu) << 13));
}

// Round to nearest even. Overflow gives infinity, small values F16 subnormals; NaN stays NaN.
[[gnu::always_inline]] inline constexpr uint16_t F16FromF32(float value) {
  const uint32_t bits = BitsOf(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & kF32MagnitudeMask;
  if (magnitude > kF32InfBits) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  }
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // >= 65520
  if (magnitude >= 0x38800000u) {                                              // >= 2^-14
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return static_cast<uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
  }
  if (magnitude <= 0x33000000u) return static_cast<uint16_t>(sign);  // <= 2^-25: ties to zero
  // A subnormal: units of 2^-24.
  const uint32_t shift = 126u - (magnitude >> 23);  // 14..24
  const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t kept = mantissa >> shift;
  const uint32_t rest = mantissa & ((1u << shift) - 1u);
  const uint32_t half = 1u << (shift - 1u);
  const uint32_t up = (rest > half || (rest == half && (kept & 1u) != 0)) ? 1u : 0u;
  return static_cast<uint16_t>(sign | (kept + up));
}

// What DAZ does to an operand: a subnormal F32 becomes a zero of the same sign.
[[gnu::always_inline]] inline constexpr float FlushSubnormal(float value) {
  const uint32_t bits = BitsOf(value);
  return (bits & kF32InfBits) == 0 ? FloatFromBits(bits & kF32SignBit) : value;
}

}  // namespace octavo
