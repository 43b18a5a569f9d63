#pragma once

// Magnitude maxima as integers. The order of F32 magnitudes is the order of their bits, so a
// maximum is exact and may be merged in any order; the common currency is the F32 bits of the
// magnitude. Values that are subnormal in F32 count as 0. A result of kF32InfBits or more means
// that the values hold an infinity or a NaN.

#include <cstdint>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/source_type.h"

namespace octavo {

// F32 magnitude bits of one value.
[[gnu::always_inline]] inline constexpr uint32_t MagnitudeBitsOfF32(uint32_t bits) {
  const uint32_t magnitude = bits & kF32MagnitudeMask;
  return magnitude < kF32MinNormalBits ? 0 : magnitude;
}
[[gnu::always_inline]] inline constexpr uint32_t MagnitudeBitsOfBf16(uint16_t bits) {
  return MagnitudeBitsOfF32(static_cast<uint32_t>(bits) << 16);
}
[[gnu::always_inline]] inline constexpr uint32_t MagnitudeBitsOfF16(uint16_t bits) {
  return MagnitudeBitsOfF32(BitsOf(F32FromF16(static_cast<uint16_t>(bits & 0x7fffu))));
}

[[gnu::always_inline]] inline constexpr uint32_t MergeAmax(uint32_t a, uint32_t b) {
  return a > b ? a : b;
}

[[gnu::always_inline]] inline constexpr bool IsFiniteAmax(uint32_t amax_bits) {
  return amax_bits < kF32InfBits;
}

}  // namespace octavo
