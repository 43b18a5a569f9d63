#pragma once

// FP8 E4M3FN: 1 sign, 4 exponent (bias 7), 3 mantissa bits. Largest value 448 (0x7E), smallest
// normal 2^-6 (0x08), subnormal step 2^-9, no infinity, NaN 0x7F and 0xFF (never written by us;
// readers refuse them).

#include <cstdint>

#include "core/tensor/bare/float_bits.h"

namespace octavo {

inline constexpr float kFp8Max = 448.0f;
inline constexpr uint8_t kFp8MaxCode = 0x7e;

[[gnu::always_inline]] inline constexpr bool IsFp8Nan(uint8_t code) {
  return (code & 0x7fu) == 0x7fu;
}

// Clamps to +-448, then rounds to nearest even; the sign of a zero is kept. A NaN, which no caller
// passes, gives a NaN code. Integer code: independent of the floating-point environment.
[[gnu::always_inline]] inline constexpr uint8_t Fp8FromF32(float value) {
  const uint32_t bits = BitsOf(value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & kF32MagnitudeMask;
  if (magnitude > kF32InfBits) return static_cast<uint8_t>(sign | 0x7fu);
  if (magnitude >= 0x43e00000u) return static_cast<uint8_t>(sign | kFp8MaxCode);  // >= 448
  if (magnitude >= 0x3c800000u) {                                                 // >= 2^-6
    const uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
    return static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)));
  }
  if (magnitude <= 0x3a800000u) return static_cast<uint8_t>(sign);  // <= 2^-10: ties to zero
  // A subnormal: units of 2^-9.
  const uint32_t shift = 141u - (magnitude >> 23);  // 21..24
  const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
  const uint32_t kept = mantissa >> shift;
  const uint32_t rest = mantissa & ((1u << shift) - 1u);
  const uint32_t half = 1u << (shift - 1u);
  const uint32_t up = (rest > half || (rest == half && (kept & 1u) != 0)) ? 1u : 0u;
  return static_cast<uint8_t>(sign | (kept + up));
}

// Exact. A NaN code gives a quiet NaN.
[[gnu::always_inline]] inline constexpr float F32FromFp8(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t magnitude = code & 0x7fu;
  if (magnitude == 0x7fu) return FloatFromBits(sign | 0x7fc00000u);
  if (magnitude >= 8u) return FloatFromBits(sign | ((magnitude + (120u << 3)) << 20));
  const float value = static_cast<float>(magnitude) * 0x1p-9f;
  return FloatFromBits(sign | BitsOf(value));
}

// The same value as BF16 bits: every E4M3 number is a BF16 number.
[[gnu::always_inline]] inline constexpr uint16_t Bf16FromFp8(uint8_t code) {
  return static_cast<uint16_t>(BitsOf(F32FromFp8(code)) >> 16);
}

}  // namespace octavo
