#pragma once

// Clamping of BF16 numbers by their bits. For kernels only (simt.h).

#include <cstdint>

#include "core/tensor/bare/float_bits.h"
#include "kernels/cuda/simt/simt.h"

namespace octavo::cuda {

// The bounds of a clip: x beyond +-limit becomes BF16(+-limit), NaN stays NaN.
struct ClipRule {
  uint32_t limit_bits;  // of the F32
  uint16_t limit_bf16;

  static constexpr ClipRule Of(float limit) { return {BitsOf(limit), Bf16FromF32(limit)}; }
  // Of kernels that may have nothing to clip.
  static constexpr ClipRule Off() { return {kF32MagnitudeMask, 0}; }

  OCTAVO_DEVICE uint16_t Clipped(uint16_t bits) const {
    const uint32_t magnitude = static_cast<uint32_t>(bits & 0x7fffu) << 16;
    if (magnitude <= limit_bits) return bits;
    if (magnitude > kF32InfBits) return static_cast<uint16_t>(bits | 0x0040u);
    return static_cast<uint16_t>((bits & 0x8000u) | limit_bf16);
  }
};

}  // namespace octavo::cuda
