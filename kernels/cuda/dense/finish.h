#pragma once

// The epilogue of a dense product, one element at a time. For kernels only (simt.h).

#include <cstdint>

#include "core/tensor/bare/float_bits.h"
#include "kernels/cuda/dense/dense.h"
#include "kernels/cuda/simt/simt.h"

namespace octavo::cuda {

// Sum: F32 or INT32. The element's residual is read before its result is written.
template <typename Sum>
OCTAVO_DEVICE void FinishElement(const DenseFinish& finish, int64_t row, int64_t channel, Sum sum) {
  float y = static_cast<float>(sum) *
            (finish.row_scales != nullptr ? finish.row_scales[row] : finish.row_scale);
  y *= finish.channel_scales != nullptr ? finish.channel_scales[channel] : finish.channel_scale;
  if (finish.bias != nullptr) y += finish.bias[channel];
  const int64_t at = row * finish.stride + channel;
  if (finish.residual != nullptr) y += F32FromBf16(finish.residual[at]);
  if (finish.out != nullptr) finish.out[at] = Bf16FromF32(y);
  if (finish.out_f32 != nullptr) finish.out_f32[at] = y;
}

}  // namespace octavo::cuda
