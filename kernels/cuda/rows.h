#pragma once

// What kernels over rows are made of: elements of a source type as F32, and maxima of a warp or a
// block. For kernels only (simt.h).

#include <cstdint>
#include <cstring>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/source_type.h"
#include "kernels/cuda/simt/simt.h"

namespace octavo::cuda {

// How elements of a source type lie in memory.
template <SourceType kType>
struct Element;
template <>
struct Element<SourceType::kBf16> {
  using Stored = uint16_t;
  static constexpr float Value(Stored bits) { return F32FromBf16(bits); }
  static constexpr uint32_t Magnitude(Stored bits) { return MagnitudeBitsOfBf16(bits); }
};
template <>
struct Element<SourceType::kF16> {
  using Stored = uint16_t;
  static constexpr float Value(Stored bits) { return F32FromF16(bits); }
  static constexpr uint32_t Magnitude(Stored bits) { return MagnitudeBitsOfF16(bits); }
};
template <>
struct Element<SourceType::kF32> {
  using Stored = uint32_t;
  static constexpr float Value(Stored bits) { return FloatFromBits(bits); }
  static constexpr uint32_t Magnitude(Stored bits) { return MagnitudeBitsOfF32(bits); }
};

// 16 bytes that move at once.
struct alignas(16) Pack16 {
  uint32_t words[4];
};

OCTAVO_DEVICE bool IsAligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Calls body(values, index, count) for runs of a row: as many elements as 16 bytes hold, from
// `index`; `count` of them exist, the others are zero. Runs are dealt out over `workers`, of which
// this thread is `worker`, and begin at multiples of their length. Rows that are not aligned are
// read element by element.
template <typename Stored, typename Body>
OCTAVO_DEVICE void ForEachRun(const Stored* row, int64_t count, int worker, int workers,
                              Body body) {
  constexpr int kRun = static_cast<int>(sizeof(Pack16) / sizeof(Stored));
  const bool aligned = IsAligned16(row);
  for (int64_t at = int64_t{worker} * kRun; at < count; at += int64_t{workers} * kRun) {
    Stored values[kRun];
    const int here = count - at < kRun ? static_cast<int>(count - at) : kRun;
    if (aligned && here == kRun) {
      const Pack16 pack = *reinterpret_cast<const Pack16*>(row + at);
      memcpy(values, &pack, sizeof(pack));
    } else {
      for (int i = 0; i < kRun; ++i) values[i] = i < here ? row[at + i] : Stored{0};
    }
    body(values, at, here);
  }
}

// Writes a run of codes: as words where a whole run is aligned.
template <int kRun>
OCTAVO_DEVICE void StoreCodes(uint8_t* to, const uint8_t (&codes)[kRun], int count) {
  static_assert(kRun % 4 == 0);
  if (count == kRun && reinterpret_cast<uintptr_t>(to) % kRun == 0) {
    struct alignas(kRun) Pack {
      uint8_t bytes[kRun];
    } pack;
    memcpy(pack.bytes, codes, kRun);
    *reinterpret_cast<Pack*>(to) = pack;
    return;
  }
  for (int i = 0; i < kRun; ++i) {
    if (i < count) to[i] = codes[i];
  }
}

// The largest of a warp's values, in every lane.
OCTAVO_DEVICE uint32_t WarpMax(uint32_t value) {
  for (int mask = simt::kWarp / 2; mask > 0; mask /= 2) {
    value = MergeAmax(value, simt::ShuffleXor(value, mask));
  }
  return value;
}

// The largest of a block's values, in every thread; `scratch` is shared memory of a word per warp.
// All threads call it, and all reach a barrier before `scratch` is used again.
template <int kThreads>
OCTAVO_DEVICE uint32_t BlockMax(uint32_t value, uint32_t* scratch) {
  value = WarpMax(value);
  if (simt::Lane() == 0) scratch[simt::Warp()] = value;
  simt::SyncBlock();
  uint32_t most = 0;
  for (int i = 0; i < kThreads / simt::kWarp; ++i) most = MergeAmax(most, scratch[i]);
  return most;
}

}  // namespace octavo::cuda
