#pragma once

// The epilogue of a dense product, one element at a time. For kernels only (simt.h).

#include <cstdint>

#include "core/tensor/bare/float_bits.h"
#include "kernels/cuda/dense/dense.h"
#include "kernels/cuda/simt/simt.h"

namespace octavo::cuda {

// The expert that has a row; experts.count where none has it. Without experts 0.
OCTAVO_DEVICE int ExpertOf(const DenseExperts& experts, int64_t row) {
  int expert = 0;
  while (expert < experts.count && row >= experts.offsets[expert + 1]) ++expert;
  return expert;
}

// What an expert has of its own: where its vectors begin, and its rows' scale.
struct ExpertFinish {
  int64_t first_channel;
  float row_scale;
};
OCTAVO_DEVICE ExpertFinish FinishOf(const DenseExperts& experts, const DenseFinish& finish,
                                    int64_t channels, int expert) {
  return {expert * channels,
          experts.row_scales != nullptr ? experts.row_scales[expert] : finish.row_scale};
}

// Sum: F32 or INT32. The element's residual is read before its result is written.
template <typename Sum>
OCTAVO_DEVICE void FinishElement(const DenseFinish& finish, const ExpertFinish& expert, int64_t row,
                                 int64_t channel, Sum sum) {
  const int64_t own = expert.first_channel + channel;
  float y = static_cast<float>(sum) *
            (finish.row_scales != nullptr ? finish.row_scales[row] : expert.row_scale);
  y *= finish.channel_scales != nullptr ? finish.channel_scales[own] : finish.channel_scale;
  if (finish.bias != nullptr) y += finish.bias[own];
  const int64_t at = row * finish.stride + channel;
  if (finish.residual != nullptr) y += F32FromBf16(finish.residual[at]);
  if (finish.out != nullptr) finish.out[at] = Bf16FromF32(y);
  if (finish.out_f32 != nullptr) finish.out_f32[at] = y;
}

}  // namespace octavo::cuda
