// A block takes a row: once for the maximum, once for the sum. While the first half warp adds up
// one stretch of exponentials in the order of the lane sum, the others compute the next.

#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/lane_sum.h"
#include "kernels/cuda/simt/simt.h"
#include "kernels/cuda/softmax/logit_key.h"
#include "kernels/cuda/softmax/softmax.h"

namespace octavo::cuda {

struct LogSumsKernel {
  static constexpr int kThreads = 512;
  static constexpr int kWarps = kThreads / simt::kWarp;
  static constexpr int64_t kStretch = 4096;
  static constexpr int kSharedBytes = 2 * kStretch * 4 + kWarps * 8;
  LogSums call;

  // The first logit in order; a key whose upper half is all ones where one is not finite.
  OCTAVO_DEVICE uint64_t BestKey(const float* row, uint64_t* scratch) const {
    uint64_t best = 0;
    for (int64_t i = simt::ThreadIndex(); i < call.columns; i += kThreads) {
      const float x = row[i];
      const bool finite = (BitsOf(x) & kF32MagnitudeMask) < kF32InfBits;
      const uint64_t key = finite ? LogitKey(x, static_cast<uint32_t>(i)) : ~uint64_t{0};
      best = key > best ? key : best;
    }
    for (int mask = simt::kWarp / 2; mask > 0; mask /= 2) {
      const uint64_t other = simt::ShuffleXor(best, mask);
      best = other > best ? other : best;
    }
    if (simt::Lane() == 0) scratch[simt::Warp()] = best;
    simt::SyncBlock();
    for (int i = 0; i < kWarps; ++i) best = scratch[i] > best ? scratch[i] : best;
    return best;
  }

  OCTAVO_DEVICE void operator()() const {
    auto* exponentials = simt::SharedMemory<float>();
    auto* scratch = reinterpret_cast<uint64_t*>(exponentials + 2 * kStretch);
    const int64_t at = simt::Block();
    const float* row = call.logits + at * call.columns;
    const uint64_t best = BestKey(row, scratch);
    if (best == ~uint64_t{0}) {
      if (simt::ThreadIndex() == 0) {
        call.max[at] = call.log[at] = FloatFromBits(0x7fc00000u);
        call.argmax[at] = 0;
      }
      return;
    }
    const int32_t argmax = static_cast<int32_t>(IndexOfKey(best));
    const float max = row[argmax];
    float sum = 0;  // of a lane, in the first half warp
    int buffer = 0;
    for (int64_t begin = 0; begin < call.columns; begin += kStretch) {
      const int64_t count = call.columns - begin < kStretch ? call.columns - begin : kStretch;
      float* here = exponentials + buffer * kStretch;
      for (int64_t i = simt::ThreadIndex(); i < count; i += kThreads) {
        here[i] = Exp(row[begin + i] - max);
      }
      simt::SyncBlock();
      if (simt::ThreadIndex() < static_cast<int>(kLanes)) {
        for (int64_t i = simt::ThreadIndex(); i < count; i += kLanes) sum += here[i];
      }
      buffer ^= 1;
    }
    if (simt::Warp() != 0) return;
    for (int width = static_cast<int>(kLanes) / 2; width > 0; width /= 2) {
      sum += simt::Shuffle(sum, simt::Lane() + width);
    }
    if (simt::Lane() != 0) return;
    call.max[at] = max;
    call.log[at] = Log(sum);
    call.argmax[at] = argmax;
  }
};

void Launch(const LogSums& call, simt::Stream stream) {
  simt::Launch(LogSumsKernel{call},
               {.blocks = static_cast<int>(call.rows), .shared_bytes = LogSumsKernel::kSharedBytes},
               stream);
}

}  // namespace octavo::cuda
