#pragma once

// Runs of 8 BF16 columns, what a thread moves at once, as registers that a kernel computes in. For
// kernels only (simt.h).

#include <cstdint>
#include <cstring>

#include "core/tensor/bare/amax.h"
#include "kernels/cuda/rows.h"

namespace octavo::cuda {

inline constexpr int kRun = 8;

struct Run {
  uint16_t values[kRun];  // BF16

  OCTAVO_DEVICE uint32_t Most() const {
    uint32_t most = 0;
    for (const uint16_t bits : values) most = MergeAmax(most, MagnitudeBitsOfBf16(bits));
    return most;
  }
};

// How many of the columns at, at + 1, .. at + 7 exist.
OCTAVO_DEVICE int RunLength(int64_t at, int64_t columns) {
  const int64_t left = columns - at;
  return left >= kRun ? kRun : left > 0 ? static_cast<int>(left) : 0;
}

// The first `count` values from `from` on, zeros behind them. Of any alignment.
OCTAVO_DEVICE Run LoadRun(const uint16_t* from, int count) {
  Run run;
  if (count == kRun && IsAligned16(from)) {
    const Pack16 pack = *reinterpret_cast<const Pack16*>(from);
    memcpy(run.values, &pack, sizeof(pack));
  } else {
    for (int i = 0; i < kRun; ++i) run.values[i] = i < count ? from[i] : uint16_t{0};
  }
  return run;
}

OCTAVO_DEVICE void StoreRun(uint16_t* to, int count, const Run& run) {
  if (count == kRun && IsAligned16(to)) {
    Pack16 pack;
    memcpy(&pack, run.values, sizeof(pack));
    *reinterpret_cast<Pack16*>(to) = pack;
  } else {
    for (int i = 0; i < kRun; ++i) {
      if (i < count) to[i] = run.values[i];
    }
  }
}

}  // namespace octavo::cuda
