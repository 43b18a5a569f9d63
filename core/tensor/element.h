#pragma once

// One element of a tensor of F32, F16 or BF16 as a number, and back. For places that are not hot:
// kernels have loops of their own.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/dtype.h"

namespace octavo {

// Exact. REQUIRES: IsSourceFloat(dtype).
inline float LoadElement(DType dtype, const std::byte* at) {
  float wide;
  uint16_t half;
  if (dtype == DType::kF32) {
    std::memcpy(&wide, at, sizeof(wide));
    return wide;
  }
  std::memcpy(&half, at, sizeof(half));
  return dtype == DType::kBF16 ? F32FromBf16(half) : F32FromF16(half);
}

// To nearest even; beyond the type's range an infinity. REQUIRES: IsSourceFloat(dtype).
inline void StoreElement(DType dtype, float value, std::byte* at) {
  if (dtype == DType::kF32) {
    std::memcpy(at, &value, sizeof(value));
    return;
  }
  const uint16_t half = dtype == DType::kBF16 ? Bf16FromF32(value) : F16FromF32(value);
  std::memcpy(at, &half, sizeof(half));
}

}  // namespace octavo
