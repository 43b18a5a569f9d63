#pragma once

// The lane sum (core/tensor/bare/lane_sum.h) by one warp, bit for bit that of the CPU. For kernels
// only (simt.h).

#include <cstdint>

#include "core/tensor/bare/lane_sum.h"
#include "kernels/cuda/simt/simt.h"

namespace octavo::cuda {

// The lane sum of value(j), j from 0 to count - 1, in every lane of the warp. Virtual lane i is
// thread i, and thread i + 16 does the same once more. A lane's additions wait for each other, so
// values are asked for a few ahead. All lanes of the warp call it.
template <typename Value>
OCTAVO_DEVICE float WarpLaneSum(int64_t count, Value value) {
  constexpr int kSumLanes = static_cast<int>(kLanes);
  constexpr int kAhead = 8;
  constexpr int kStep = kAhead * kSumLanes;
  const int64_t whole = count / kStep * kStep;
  int64_t j = simt::Lane() % kSumLanes;
  float sum = 0;
  float next[kAhead];
  for (int i = 0; i < kAhead; ++i) next[i] = whole > 0 ? value(j + i * kSumLanes) : 0.0f;
  for (; j < whole; j += kStep) {
    float now[kAhead];
    for (int i = 0; i < kAhead; ++i) now[i] = next[i];
    if (j + kStep < whole) {
      for (int i = 0; i < kAhead; ++i) next[i] = value(j + kStep + i * kSumLanes);
    }
    for (int i = 0; i < kAhead; ++i) sum += now[i];
  }
  for (; j < count; j += kSumLanes) sum += value(j);
  for (int mask = kSumLanes / 2; mask > 0; mask /= 2) sum += simt::ShuffleXor(sum, mask);
  return sum;
}

}  // namespace octavo::cuda
