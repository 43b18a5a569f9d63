#pragma once

// Symmetric INT8 codes: -127..127 by default, -128..127 where a compatibility mode asks for it.

#include <cstdint>

#include "core/tensor/bare/float_bits.h"

namespace octavo {

inline constexpr float kInt8Max = 127.0f;
inline constexpr int kInt8CodeMin = -127;

// Clamps to [code_min, 127], then rounds to the nearest integer, ties to even. REQUIRES: not a NaN;
// rounding mode to nearest (FpEnv, which is also the default of every thread).
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline int8_t Int8FromF32(float value,
                                                                   int code_min = kInt8CodeMin) {
  const float low = static_cast<float>(code_min);
  float clamped = value < low ? low : value;
  clamped = clamped > kInt8Max ? kInt8Max : clamped;
  // Adding 1.5 * 2^23 leaves the integer, rounded by the addition itself, in the low bits.
  const uint32_t bits = BitsOf(clamped + 12582912.0f);
  return static_cast<int8_t>(static_cast<int32_t>(bits) - 0x4b400000);
}

}  // namespace octavo
