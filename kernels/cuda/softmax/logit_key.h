#pragma once

// A logit and its index as one number: the greater, the earlier in the order of kernels/softmax.h
// (larger logits first, equal ones by index). Numbers that are subnormal in F32 count as zeros, and
// both zeros are equal.

#include <cstdint>

#include "core/tensor/bare/float_bits.h"

namespace octavo::cuda {

constexpr uint64_t LogitKey(float logit, uint32_t index) {
  uint32_t bits = BitsOf(logit);
  if ((bits & kF32MagnitudeMask) < kF32MinNormalBits) bits = 0;
  const uint32_t ordered = (bits & kF32SignBit) != 0 ? ~bits : bits | kF32SignBit;
  return uint64_t{ordered} << 32 | (0xffffffffu - index);
}

constexpr uint32_t IndexOfKey(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

}  // namespace octavo::cuda
