#pragma once

// One tile of a product: rows of w and x come through asynchronous copies into swizzled shared
// memory, from there as fragments into mma.sync. For kernels only (simt.h).
//
// Fragments (PTX ISA, mma.m16n8k16): lane 4 g + t holds of A rows g and g + 8, of B column g, at
// k = 2t, 2t + 1 and those + 8. Where w is FP8, a step's k are renamed, the same way for both
// sides: lane t holds k = 4t, 4t + 2 in the first pair and 4t + 1, 4t + 3 in the second, which is
// what widening a word of codes gives without moving bytes between halves.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/dense/tiles.h"
#include "kernels/cuda/simt/simt.h"

namespace octavo::cuda {

// Two pairs of 16-bit numbers.
struct WidePairs {
  uint32_t even;  // of bytes 0 and 2
  uint32_t odd;   // of bytes 1 and 3
};

// E4M3 codes as F16 numbers of 2^-8 their value, exactly: an exponent of the same bias lies 7 bits
// higher, and F16 has subnormals.
inline constexpr float kFp8PairScale = 0x1p16f;  // undoes it for products of two
OCTAVO_DEVICE WidePairs WidenToF16(uint32_t codes) {
  return {((codes << 7) & 0x3f803f80u) | ((codes << 8) & 0x80008000u),
          ((codes >> 1) & 0x3f803f80u) | (codes & 0x80008000u)};
}

// E4M3 codes as BF16 numbers of their value: 2^120 is what the biases differ by.
OCTAVO_DEVICE WidePairs WidenToBf16(uint32_t codes) {
  constexpr uint32_t kFactors = 0x7b807b80u;  // 2^120 twice
  const uint32_t even = ((codes << 4) & 0x07f007f0u) | ((codes << 8) & 0x80008000u);
  const uint32_t odd = ((codes >> 4) & 0x07f007f0u) | (codes & 0x80008000u);
  return {simt::ScaleBf16Pair(even, kFactors), simt::ScaleBf16Pair(odd, kFactors)};
}

// What a tile is made of: the first of its rows and of its channels, and how many there are.
struct TileOperands {
  const std::byte* x;
  const std::byte* w;
  int64_t x_row_bytes;
  int64_t w_row_bytes;
  int rows;  // that exist
  int channels;
  const float* x_scales;  // kFp8Blocks: of the first row, and of the channels' block
  int64_t x_scale_stride;
  const float* w_scales;
};

template <DenseTypes kTypes, DenseTile kTile>
struct TileProduct {
  static constexpr TileShape kShape = ShapeOf(kTile);
  static constexpr int kThreads = kShape.threads();
  static constexpr int kDepth = StageDepth(kTypes);
  static constexpr int kStageBytes = StageBytes(kTypes, kShape);
  static constexpr int kWarpChannels = kShape.channels / kShape.warps_channels;
  static constexpr int kWarpRows = kShape.rows / kShape.warps_rows;
  static constexpr int kM = kWarpChannels / 16;  // fragments of a warp
  static constexpr int kN = kWarpRows / 8;
  using Sum = std::conditional_t<kTypes == DenseTypes::kInt8, int32_t, float>;
  using Sums = Sum[kM][kN][4];

  OCTAVO_DEVICE static int FirstChannel() {
    return simt::Warp() % kShape.warps_channels * kWarpChannels;
  }
  OCTAVO_DEVICE static int FirstRow() { return simt::Warp() / kShape.warps_channels * kWarpRows; }
  // Where element i of fragment (m, n) lies in the tile.
  OCTAVO_DEVICE static int ChannelOf(int m, int i) {
    return FirstChannel() + m * 16 + i / 2 * 8 + simt::Lane() / 4;
  }
  OCTAVO_DEVICE static int RowOf(int n, int i) {
    return FirstRow() + n * 8 + simt::Lane() % 4 * 2 + i % 2;
  }

  OCTAVO_DEVICE static void Clear(Sums& sums) {
    for (int m = 0; m < kM; ++m) {
      for (int n = 0; n < kN; ++n) {
        for (int i = 0; i < 4; ++i) sums[m][n][i] = 0;
      }
    }
  }

  // Starts the copies of panels of kRows rows from byte `begin` of each; bytes from `end` on and
  // rows from `rows` on become zeros.
  template <int kRows, int kPanels>
  OCTAVO_DEVICE static void CopyRows(std::byte* to, const std::byte* from, int64_t row_bytes,
                                     int rows, int64_t begin, int64_t end) {
    constexpr int kChunks = kPanels * kPanelBytes / kChunkBytes;  // of a row
    static_assert(kRows * kChunks % kThreads == 0);
    for (int i = 0; i < kRows * kChunks / kThreads; ++i) {
      const int index = simt::ThreadIndex() + i * kThreads;
      const int row = index / kChunks;
      const int chunk = index % kChunks;
      const int64_t at = begin + chunk * kChunkBytes;
      const int64_t left = row < rows && at < end ? end - at : 0;
      const int bytes = left < kChunkBytes ? static_cast<int>(left) : kChunkBytes;
      simt::CopyAsyncPart(to + chunk / 8 * (kRows * kPanelBytes) + PanelOffset(row, chunk % 8),
                          bytes > 0 ? from + row * row_bytes + at : from, bytes);
    }
  }

  // Starts the copies of one stage: k from `begin`, zeros from `end` on.
  OCTAVO_DEVICE static void CopyStage(const TileOperands& tile, int64_t begin, int64_t end,
                                      std::byte* stage) {
    CopyRows<kShape.channels, 1>(stage, tile.w, tile.w_row_bytes, tile.channels,
                                 begin * WBytes(kTypes), end * WBytes(kTypes));
    CopyRows<kShape.rows, XPanels(kTypes)>(stage + kShape.channels * kPanelBytes, tile.x,
                                           tile.x_row_bytes, tile.rows, begin * XBytes(kTypes),
                                           end * XBytes(kTypes));
  }

  // Half a panel of w, 64 bytes a row: a[m][pair] holds, for chunks 2 * pair and the next, rows g
  // and g + 8 each.
  OCTAVO_DEVICE static void LoadW(const std::byte* w, int half, uint32_t (&a)[kM][2][4]) {
    for (int m = 0; m < kM; ++m) {
      for (int pair = 0; pair < 2; ++pair) {
        const int row = FirstChannel() + m * 16 + simt::Lane() % 16;
        const int chunk = half * 4 + pair * 2 + simt::Lane() / 16;
        simt::LoadMatrix4(a[m][pair], w + PanelOffset(row, chunk));
      }
    }
  }
  // The same of x: b[n] holds row g's four chunks.
  OCTAVO_DEVICE static void LoadX(const std::byte* x, int half, uint32_t (&b)[kN][4]) {
    for (int n = 0; n < kN; ++n) {
      const int row = FirstRow() + n * 8 + simt::Lane() % 8;
      simt::LoadMatrix4(b[n], x + PanelOffset(row, half * 4 + simt::Lane() / 8));
    }
  }
  // kBf16Fp8: x at the k that chunk 4 * half + step of w has, renamed like w's.
  OCTAVO_DEVICE static void LoadXForFp8(const std::byte* x, int half, int step,
                                        uint32_t (&b)[kN][2]) {
    struct alignas(8) Four {
      uint32_t low, high;
    };
    const std::byte* panel = x + half * (kShape.rows * kPanelBytes);
    const int t = simt::Lane() % 4;
    for (int n = 0; n < kN; ++n) {
      const int row = FirstRow() + n * 8 + simt::Lane() / 4;
      const Four four =
          *reinterpret_cast<const Four*>(panel + PanelOffset(row, step * 2 + t / 2) + t % 2 * 8);
      b[n][0] = (four.low & 0xffffu) | (four.high << 16);
      b[n][1] = (four.low >> 16) | (four.high & 0xffff0000u);
    }
  }

  OCTAVO_DEVICE static void AddHalfFp8(const std::byte* w, const std::byte* x, int half,
                                       Sums& sums) {
    uint32_t a[kM][2][4];
    LoadW(w, half, a);
    uint32_t codes[kN][4];
    if constexpr (kTypes != DenseTypes::kBf16Fp8) LoadX(x, half, codes);
    for (int step = 0; step < 4; ++step) {
      uint32_t b[kN][2];
      if constexpr (kTypes == DenseTypes::kBf16Fp8) {
        LoadXForFp8(x, half, step, b);
      } else {
        for (int n = 0; n < kN; ++n) {
          const WidePairs wide = WidenToF16(codes[n][step]);
          b[n][0] = wide.even;
          b[n][1] = wide.odd;
        }
      }
      for (int m = 0; m < kM; ++m) {
        const uint32_t upper = a[m][step / 2][step % 2 * 2];
        const uint32_t lower = a[m][step / 2][step % 2 * 2 + 1];
        if constexpr (kTypes == DenseTypes::kBf16Fp8) {
          const WidePairs up = WidenToBf16(upper), low = WidenToBf16(lower);
          const uint32_t wide[4] = {up.even, low.even, up.odd, low.odd};
          for (int n = 0; n < kN; ++n) simt::MmaBf16(sums[m][n], wide, b[n]);
        } else {
          const WidePairs up = WidenToF16(upper), low = WidenToF16(lower);
          const uint32_t wide[4] = {up.even, low.even, up.odd, low.odd};
          for (int n = 0; n < kN; ++n) simt::MmaF16(sums[m][n], wide, b[n]);
        }
      }
    }
  }

  OCTAVO_DEVICE static void AddHalf(const std::byte* w, const std::byte* x, int half, Sums& sums) {
    uint32_t a[kM][2][4];
    uint32_t b[kN][4];
    LoadW(w, half, a);
    LoadX(x, half, b);
    for (int pair = 0; pair < 2; ++pair) {
      for (int m = 0; m < kM; ++m) {
        for (int n = 0; n < kN; ++n) {
          const uint32_t column[2] = {b[n][pair * 2], b[n][pair * 2 + 1]};
          if constexpr (kTypes == DenseTypes::kInt8) {
            simt::MmaS8(sums[m][n], a[m][pair], column);
          } else {
            simt::MmaBf16(sums[m][n], a[m][pair], column);
          }
        }
      }
    }
  }

  OCTAVO_DEVICE static void AddPanels(const std::byte* stage, Sums& sums) {
    const std::byte* x = stage + kShape.channels * kPanelBytes;
    for (int half = 0; half < 2; ++half) {
      if constexpr (kTypes == DenseTypes::kInt8 || kTypes == DenseTypes::kBf16) {
        AddHalf(stage, x, half, sums);
      } else {
        AddHalfFp8(stage, x, half, sums);
      }
    }
  }

  // sums += the products of a stage that has arrived. `block`: of 128 k, for the scales.
  OCTAVO_DEVICE static void AddStage(const TileOperands& tile, const std::byte* stage,
                                     int64_t block, Sums& sums) {
    if constexpr (kTypes != DenseTypes::kFp8Blocks) {
      AddPanels(stage, sums);
    } else {
      const float w_scale = tile.w_scales[block];
      float scales[kN][2];
      for (int n = 0; n < kN; ++n) {
        for (int i = 0; i < 2; ++i) {
          const int row = RowOf(n, i);
          scales[n][i] =
              row < tile.rows ? tile.x_scales[row * tile.x_scale_stride + block] * w_scale : 0.0f;
        }
      }
      Sums part;
      Clear(part);
      AddPanels(stage, part);
      for (int m = 0; m < kM; ++m) {
        for (int n = 0; n < kN; ++n) {
          for (int i = 0; i < 4; ++i) {
            sums[m][n][i] =
                __builtin_fmaf(part[m][n][i] * kFp8PairScale, scales[n][i % 2], sums[m][n][i]);
          }
        }
      }
    }
  }

  // What a unit's sums are short of after its last stage.
  OCTAVO_DEVICE static void EndUnit(Sums& sums) {
    if constexpr (kTypes == DenseTypes::kFp8) {
      for (int m = 0; m < kM; ++m) {
        for (int n = 0; n < kN; ++n) {
          for (int i = 0; i < 4; ++i) sums[m][n][i] *= kFp8PairScale;
        }
      }
    }
  }
};

}  // namespace octavo::cuda
