#pragma once

// kernels/matmul.h over 16 virtual lanes, one channel per lane: the order of operations in a lane
// is the reference's. Included by one file per instruction set, which picks the lanes `L`;
// everything is local to that file, so that no other is linked to its instructions.

#include <cstddef>
#include <cstdint>

#include "kernels/matmul.h"

namespace octavo::internal {
namespace {

constexpr int64_t kRowsMax = 64;          // of one block-scaled pass
constexpr int64_t kPrefetchBytes = 4096;  // ahead, in every weight stream

// Numbers of one tile: out[k * stride + channel].
template <class L>
void DecodeTile(WeightType type, const std::byte* tile, float* out, int64_t stride) {
  if (type == WeightType::kBf16) {
    for (int64_t line = 0; line < 16; ++line) {
      typename L::F even, odd;
      L::Bf16Line(tile + line * 64, &even, &odd);
      L::Store(out + (2 * line) * stride, even);
      L::Store(out + (2 * line + 1) * stride, odd);
    }
    return;
  }
  for (int64_t line = 0; line < 8; ++line) {
    typename L::F k[4];
    L::Fp8Line(tile + line * 64, k);
    for (int64_t i = 0; i < 4; ++i) L::Store(out + (4 * line + i) * stride, k[i]);
  }
}

// chains[r][..] = fma(x[r], weights, chains[r][..]).
template <class L, int Rows, int Groups>
[[gnu::always_inline]] inline void AddProducts(const float* weights, const float* x,
                                               int64_t x_stride,
                                               typename L::F (&chains)[Rows][Groups]) {
  typename L::F w[Groups];
#pragma GCC unroll 8
  for (int g = 0; g < Groups; ++g) w[g] = L::Load(weights + g * 16);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    const typename L::F a = L::Set(x[r * x_stride]);
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) chains[r][g] = L::Fma(a, w[g], chains[r][g]);
  }
}

// sums[r][..] += the 32-block rule of x rows and `weights` ([32][16 * Groups] numbers).
template <class L, int Rows, int Groups>
[[gnu::always_inline]] inline void BlockRows(const float* weights, const float* x, int64_t x_stride,
                                             float* sums, int64_t sums_stride) {
  constexpr int64_t kStride = Groups * 16;
  typename L::F even[Rows][Groups], odd[Rows][Groups];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) even[r][g] = odd[r][g] = L::Zero();
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < kTileDepth; k += 2) {
    // One parity after the other, so that only `Groups` registers hold weights.
    AddProducts<L, Rows, Groups>(weights + k * kStride, x + k, x_stride, even);
    AddProducts<L, Rows, Groups>(weights + (k + 1) * kStride, x + k + 1, x_stride, odd);
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) {
      float* sum = sums + r * sums_stride + g * 16;
      L::Store(sum, L::Add(L::Load(sum), L::Add(even[r][g], odd[r][g])));
    }
  }
}

// The same for any number of rows.
template <class L, int Groups>
void BlockProduct(const float* weights, int64_t rows, const float* x, int64_t x_stride, float* sums,
                  int64_t sums_stride) {
  constexpr int kTile = L::kRowTile;
  int64_t r = 0;
  for (; r + kTile <= rows; r += kTile) {
    for (int64_t next = r + kTile; next < r + 2 * kTile && next < rows; ++next) {
      __builtin_prefetch(x + next * x_stride);
      __builtin_prefetch(x + next * x_stride + 16);
    }
    BlockRows<L, kTile, Groups>(weights, x + r * x_stride, x_stride, sums + r * sums_stride,
                                sums_stride);
  }
  x += r * x_stride;
  sums += r * sums_stride;
  switch (rows - r) {
    case 5:
      return BlockRows<L, 5, Groups>(weights, x, x_stride, sums, sums_stride);
    case 4:
      return BlockRows<L, 4, Groups>(weights, x, x_stride, sums, sums_stride);
    case 3:
      return BlockRows<L, 3, Groups>(weights, x, x_stride, sums, sums_stride);
    case 2:
      return BlockRows<L, 2, Groups>(weights, x, x_stride, sums, sums_stride);
    case 1:
      return BlockRows<L, 1, Groups>(weights, x, x_stride, sums, sums_stride);
    default:
      return;
  }
}

template <class L>
void ClearSums(int64_t rows, int64_t columns, float* sums, int64_t sums_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; c += 16) L::Store(sums + r * sums_stride + c, L::Zero());
  }
}

// Adds 32-blocks [begin, end) of `Groups` groups from `group` on to the sums of all rows.
template <class L, int Groups>
void AddBlocks(const PackedWeights& weights, int64_t group, int64_t begin, int64_t end,
               int64_t rows, const float* x, int64_t x_stride, float* sums, int64_t sums_stride) {
  alignas(64) float decoded[kTileDepth * Groups * 16];
  for (int64_t block = begin; block < end; ++block) {
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) {
      const std::byte* tile = weights.Tile(group + g, block);
      __builtin_prefetch(tile + TileBytes(weights.type));
      DecodeTile<L>(weights.type, tile, decoded + g * 16, Groups * 16);
    }
    BlockProduct<L, Groups>(decoded, rows, x + block * kTileDepth, x_stride, sums, sums_stride);
  }
}

// One row: `Groups` groups, `step` apart, walk K side by side in registers: that many streams of
// weights. With scales: sums of 128 from zero, then fma(p, row scale * channel scale, sum).
template <class L, WeightType Type, int Groups, bool Scaled>
[[gnu::always_inline]] inline void OneRow(const PackedWeights& weights, int64_t group, int64_t step,
                                          int64_t begin, int64_t end, const float* x,
                                          const BlockScales* scales, float* sums) {
  constexpr int64_t kBytes = TileBytes(Type);
  constexpr int64_t kLines = kBytes / 64;
  constexpr int64_t kPerLine = kTileDepth / kLines;  // k in one line: 2 or 4
  const std::byte* tiles[Groups];
#pragma GCC unroll 8
  for (int g = 0; g < Groups; ++g) tiles[g] = weights.Tile(group + g * step, begin);
  typename L::F sum[Groups], total[Groups];
#pragma GCC unroll 8
  for (int g = 0; g < Groups; ++g) sum[g] = total[g] = L::Zero();
  for (int64_t block = begin; block < end; ++block) {
    const float* xs = x + block * kTileDepth;
    typename L::F even[Groups], odd[Groups];
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) even[g] = odd[g] = L::Zero();
#pragma GCC unroll 2
    for (int64_t line = 0; line < kLines; ++line) {
#pragma GCC unroll 8
      for (int g = 0; g < Groups; ++g) {
        const std::byte* at = tiles[g] + line * 64;
        __builtin_prefetch(at + kPrefetchBytes);
        typename L::F k[4];
        if constexpr (Type == WeightType::kBf16) {
          L::Bf16Line(at, &k[0], &k[1]);
        } else {
          L::Fp8Line(at, k);
        }
#pragma GCC unroll 8
        for (int64_t i = 0; i < kPerLine; i += 2) {
          even[g] = L::Fma(L::Set(xs[line * kPerLine + i]), k[i], even[g]);
          odd[g] = L::Fma(L::Set(xs[line * kPerLine + i + 1]), k[i + 1], odd[g]);
        }
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) {
      sum[g] = L::Add(sum[g], L::Add(even[g], odd[g]));
      tiles[g] += kBytes;
    }
    if constexpr (Scaled) {
      if ((block + 1) % 4 != 0 && block + 1 != end) continue;
      const int64_t index = block / 4;
      const typename L::F row_scale = L::Set(scales->rows[index]);
      const float* channels = scales->channels + index * scales->channel_stride + group * 16;
#pragma GCC unroll 8
      for (int g = 0; g < Groups; ++g) {
        total[g] = L::Fma(sum[g], L::Mul(row_scale, L::Load(channels + g * step * 16)), total[g]);
        sum[g] = L::Zero();
      }
    }
  }
#pragma GCC unroll 8
  for (int g = 0; g < Groups; ++g) L::Store(sums + g * step * 16, Scaled ? total[g] : sum[g]);
}

template <class L, int Groups, bool Scaled>
void OneRowOf(const PackedWeights& weights, int64_t group, int64_t step, const MatmulPart& part,
              const float* x, const BlockScales* scales, float* sums) {
  if (weights.type == WeightType::kBf16) {
    OneRow<L, WeightType::kBf16, Groups, Scaled>(weights, group, step, part.block_begin,
                                                 part.block_end, x, scales, sums);
  } else {
    OneRow<L, WeightType::kFp8, Groups, Scaled>(weights, group, step, part.block_begin,
                                                part.block_end, x, scales, sums);
  }
}

// Each stream walks its own run of groups, so that prefetching past the end of one group reaches
// the stream's next one.
template <class L, bool Scaled>
void SumOneRow(const PackedWeights& weights, const MatmulPart& part, const float* x,
               const BlockScales* scales, float* sums) {
  const int64_t step = (part.group_end - part.group_begin) / L::kStreams;
  for (int64_t i = 0; i < step; ++i) {
    OneRowOf<L, L::kStreams, Scaled>(weights, part.group_begin + i, step, part, x, scales,
                                     sums + i * 16);
  }
  for (int64_t group = part.group_begin + step * L::kStreams; group < part.group_end; ++group) {
    OneRowOf<L, 1, Scaled>(weights, group, 1, part, x, scales,
                           sums + (group - part.group_begin) * 16);
  }
}

template <class L>
void Sum(const PackedWeights& weights, const MatmulPart& part, const float* x, int64_t x_stride,
         float* sums, int64_t sums_stride) {
  if (part.rows == 1) return SumOneRow<L, false>(weights, part, x, nullptr, sums);
  ClearSums<L>(part.rows, (part.group_end - part.group_begin) * 16, sums, sums_stride);
  int64_t group = part.group_begin;
  for (; group + L::kGroupTile <= part.group_end; group += L::kGroupTile) {
    AddBlocks<L, L::kGroupTile>(weights, group, part.block_begin, part.block_end, part.rows, x,
                                x_stride, sums + (group - part.group_begin) * 16, sums_stride);
  }
  for (; group < part.group_end; ++group) {
    AddBlocks<L, 1>(weights, group, part.block_begin, part.block_end, part.rows, x, x_stride,
                    sums + (group - part.group_begin) * 16, sums_stride);
  }
}

// Groups [group, group + Groups), rows [0, rows <= kRowsMax) under block scales.
template <class L, int Groups>
void SumScaledTile(const PackedWeights& weights, int64_t group, const MatmulPart& part,
                   int64_t rows, const float* x, int64_t x_stride, const BlockScales& scales,
                   float* sums, int64_t sums_stride) {
  alignas(64) float p[kRowsMax * Groups * 16];
  ClearSums<L>(rows, Groups * 16, sums, sums_stride);
  for (int64_t begin = part.block_begin; begin < part.block_end; begin += 4) {
    const int64_t end = begin + 4 < part.block_end ? begin + 4 : part.block_end;
    ClearSums<L>(rows, Groups * 16, p, Groups * 16);
    AddBlocks<L, Groups>(weights, group, begin, end, rows, x, x_stride, p, Groups * 16);
    const float* channels = scales.channels + begin / 4 * scales.channel_stride + group * 16;
    for (int64_t r = 0; r < rows; ++r) {
      const typename L::F row_scale = L::Set(scales.rows[r * scales.row_stride + begin / 4]);
#pragma GCC unroll 8
      for (int g = 0; g < Groups; ++g) {
        float* sum = sums + r * sums_stride + g * 16;
        const typename L::F factor = L::Mul(row_scale, L::Load(channels + g * 16));
        L::Store(sum, L::Fma(L::Load(p + r * Groups * 16 + g * 16), factor, L::Load(sum)));
      }
    }
  }
}

template <class L>
void SumScaled(const PackedWeights& weights, const MatmulPart& part, const float* x,
               int64_t x_stride, const BlockScales& scales, float* sums, int64_t sums_stride) {
  if (part.rows == 1) return SumOneRow<L, true>(weights, part, x, &scales, sums);
  for (int64_t row = 0; row < part.rows; row += kRowsMax) {
    const int64_t rows = part.rows - row < kRowsMax ? part.rows - row : kRowsMax;
    BlockScales own = scales;
    own.rows += row * scales.row_stride;
    float* to = sums + row * sums_stride;
    const float* from = x + row * x_stride;
    int64_t group = part.group_begin;
    for (; group + L::kGroupTile <= part.group_end; group += L::kGroupTile) {
      SumScaledTile<L, L::kGroupTile>(weights, group, part, rows, from, x_stride, own,
                                      to + (group - part.group_begin) * 16, sums_stride);
    }
    for (; group < part.group_end; ++group) {
      SumScaledTile<L, 1>(weights, group, part, rows, from, x_stride, own,
                          to + (group - part.group_begin) * 16, sums_stride);
    }
  }
}

template <class L>
void Widen(const uint16_t* x, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) L::Store(out + i, L::LoadBf16(x + i));
  if (i < count) L::StorePart(out + i, L::LoadBf16Part(x + i, count - i), count - i);
}

template <class L>
void Add(float* into, const float* from, int64_t count) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) L::Store(into + i, L::Add(L::Load(into + i), L::Load(from + i)));
  for (; i < count; ++i) into[i] += from[i];
}

template <class L>
void AddWeighted(float* into, const float* from, float weight, int64_t count) {
  const typename L::F wide = L::Set(weight);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    L::Store(into + i, L::Fma(wide, L::Load(from + i), L::Load(into + i)));
  }
  for (; i < count; ++i) into[i] = __builtin_fmaf(weight, from[i], into[i]);
}

template <class L>
void FromInt32(const int32_t* sums, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) L::Store(out + i, L::FromInt32(sums + i));
  for (; i < count; ++i) out[i] = static_cast<float>(sums[i]);
}

// Sixteen channels (or the first `count`) of the epilogue, before rounding.
template <class L>
[[gnu::always_inline]] inline typename L::F FinishLanes(const float* sums, int64_t count,
                                                        float row_scale,
                                                        const float* channel_scales,
                                                        const float* bias) {
  const auto load = [count](const float* p) __attribute__((always_inline)) {
    return count >= 16 ? L::Load(p) : L::LoadPart(p, count, 0.0f);
  };
  typename L::F y = L::Mul(load(sums), L::Set(row_scale));
  if (channel_scales != nullptr) y = L::Mul(y, load(channel_scales));
  if (bias != nullptr) y = L::Add(y, load(bias));
  return y;
}

template <class L>
void Finish(const float* sums, int64_t count, float row_scale, const float* channel_scales,
            const float* bias, const uint16_t* residual, uint16_t* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t left = count - i;
    typename L::F y = FinishLanes<L>(sums + i, left, row_scale,
                                     channel_scales == nullptr ? nullptr : channel_scales + i,
                                     bias == nullptr ? nullptr : bias + i);
    if (left >= 16) {
      if (residual != nullptr) y = L::Add(y, L::LoadBf16(residual + i));
      L::StoreBf16(out + i, y);
    } else {
      if (residual != nullptr) y = L::Add(y, L::LoadBf16Part(residual + i, left));
      L::StoreBf16Part(out + i, y, left);
    }
  }
}

template <class L>
void FinishF32(const float* sums, int64_t count, float row_scale, const float* channel_scales,
               const float* bias, float* out) {
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t left = count - i;
    const typename L::F y = FinishLanes<L>(sums + i, left, row_scale,
                                           channel_scales == nullptr ? nullptr : channel_scales + i,
                                           bias == nullptr ? nullptr : bias + i);
    if (left >= 16) {
      L::Store(out + i, y);
    } else {
      L::StorePart(out + i, y, left);
    }
  }
}

template <class L>
constexpr MatmulOps MatmulOpsOf(decltype(MatmulOps::sum_int8) sum_int8) {
  return {Sum<L>,         SumScaled<L>, sum_int8,  Widen<L>,    Add<L>,
          AddWeighted<L>, FromInt32<L>, Finish<L>, FinishF32<L>};
}

}  // namespace
}  // namespace octavo::internal
