#pragma once

// kernels/matmul.h over 16 virtual lanes, one channel per lane: the order of operations in a lane
// is the reference's. Included by one file per instruction set, which picks the lanes `L`;
// everything is local to that file, so that no other is linked to its instructions.

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/block_products.h"
#include "kernels/matmul.h"

namespace octavo::internal {
namespace {

constexpr int64_t kPrefetchBytes = 4096;  // ahead, in every weight stream
constexpr int64_t kStripGroups = 4;       // of 16 channels, that all rows pass before the next
constexpr int64_t kDecodedRows = 64;      // that use a decoded tile before the next

// A line of a tile, which is read at a time: 64 bytes, so many k.
constexpr int64_t LineDepth(WeightType type) { return type == WeightType::kFp8 ? 4 : 2; }
constexpr int64_t LineCount(WeightType type) { return kTileDepth / LineDepth(type); }

template <class L, WeightType Type>
[[gnu::always_inline]] inline void ReadLine(const std::byte* line, typename L::F* k) {
  __builtin_prefetch(line + kPrefetchBytes);
  if constexpr (Type == WeightType::kBf16) {
    L::Bf16Line(line, &k[0], &k[1]);
  } else {
    L::Fp8Line(line, k);
  }
}

// Few rows: `Groups` groups, `step` apart, walk K side by side in registers: that many streams of
// weights, each decoded once for all rows. With scales: sums of 128 from zero, then fma(p, row
// scale
// * channel scale, sum).
template <class L, WeightType Type, int Rows, int Groups, bool Scaled>
[[gnu::always_inline]] inline void FewRows(const PackedWeights& weights, int64_t group,
                                           int64_t step, int64_t begin, int64_t end, const float* x,
                                           int64_t x_stride, const BlockScales* scales, float* sums,
                                           int64_t sums_stride) {
  constexpr int64_t kPerLine = LineDepth(Type);
  constexpr int64_t kLines = LineCount(Type);
  constexpr int64_t kBytes = TileBytes(Type);
  const std::byte* tiles[Groups];
#pragma GCC unroll 8
  for (int g = 0; g < Groups; ++g) tiles[g] = weights.Tile(group + g * step, begin);
  typename L::F sum[Rows][Groups], total[Rows][Groups];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) {
      total[r][g] = L::Load(sums + r * sums_stride + g * step * 16);
      sum[r][g] = Scaled ? L::Zero() : total[r][g];
    }
  }
  for (int64_t block = begin; block < end; ++block) {
    typename L::F even[Rows][Groups], odd[Rows][Groups];
#pragma GCC unroll 8
    for (int i = 0; i < Rows * Groups; ++i) {
      even[i / Groups][i % Groups] = odd[i / Groups][i % Groups] = L::Zero();
    }
#pragma GCC unroll 2
    for (int64_t line = 0; line < kLines; ++line) {
      const float* xs = x + block * kTileDepth + line * kPerLine;
#pragma GCC unroll 8
      for (int g = 0; g < Groups; ++g) {
        typename L::F k[4];
        ReadLine<L, Type>(tiles[g] + line * 64, k);
#pragma GCC unroll 8
        for (int64_t i = 0; i < kPerLine; i += 2) {
          // One parity after the other, so that few registers hold weights.
#pragma GCC unroll 8
          for (int r = 0; r < Rows; ++r) {
            even[r][g] = L::Fma(L::Set(xs[r * x_stride + i]), k[i], even[r][g]);
          }
#pragma GCC unroll 8
          for (int r = 0; r < Rows; ++r) {
            odd[r][g] = L::Fma(L::Set(xs[r * x_stride + i + 1]), k[i + 1], odd[r][g]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) {
      tiles[g] += kBytes;
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        sum[r][g] = L::Add(sum[r][g], L::Add(even[r][g], odd[r][g]));
      }
    }
    if constexpr (Scaled) {
      if ((block + 1) % 4 != 0 && block + 1 != end) continue;
      const int64_t index = block / 4;
      const float* channels = scales->channels + index * scales->channel_stride + group * 16;
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const typename L::F row_scale = L::Set(scales->rows[r * scales->row_stride + index]);
#pragma GCC unroll 8
        for (int g = 0; g < Groups; ++g) {
          const typename L::F factor = L::Mul(row_scale, L::Load(channels + g * step * 16));
          total[r][g] = L::Fma(sum[r][g], factor, total[r][g]);
          sum[r][g] = L::Zero();
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) {
      L::Store(sums + r * sums_stride + g * step * 16, Scaled ? total[r][g] : sum[r][g]);
    }
  }
}

// Each stream walks its own run of groups, so that prefetching past the end of one group reaches
// the stream's next one.
template <class L, WeightType Type, int Rows, bool Scaled>
void AddStreams(const PackedWeights& weights, const MatmulPart& part, const float* x,
                int64_t x_stride, const BlockScales* scales, float* sums, int64_t sums_stride) {
  constexpr int kStreams = L::Streams(Rows);
  const int64_t step = (part.group_end - part.group_begin) / kStreams;
  for (int64_t i = 0; i < step; ++i) {
    FewRows<L, Type, Rows, kStreams, Scaled>(weights, part.group_begin + i, step, part.block_begin,
                                             part.block_end, x, x_stride, scales, sums + i * 16,
                                             sums_stride);
  }
  for (int64_t group = part.group_begin + step * kStreams; group < part.group_end; ++group) {
    FewRows<L, Type, Rows, 1, Scaled>(weights, group, 1, part.block_begin, part.block_end, x,
                                      x_stride, scales, sums + (group - part.group_begin) * 16,
                                      sums_stride);
  }
}

// REQUIRES 1 <= part.rows <= Rows.
template <class L, WeightType Type, bool Scaled, int Rows>
void AddUpTo(const PackedWeights& weights, const MatmulPart& part, const float* x, int64_t x_stride,
             const BlockScales* scales, float* sums, int64_t sums_stride) {
  if constexpr (Rows > 1) {
    if (part.rows < Rows) {
      return AddUpTo<L, Type, Scaled, Rows - 1>(weights, part, x, x_stride, scales, sums,
                                                sums_stride);
    }
  }
  AddStreams<L, Type, Rows, Scaled>(weights, part, x, x_stride, scales, sums, sums_stride);
}

// All rows, in passes of as equal numbers as can be.
template <class L, WeightType Type, bool Scaled>
void AddPasses(const PackedWeights& weights, const MatmulPart& part, const float* x,
               int64_t x_stride, const BlockScales& scales, float* sums, int64_t sums_stride) {
  const int64_t passes = (part.rows + L::kRowTile - 1) / L::kRowTile;
  MatmulPart some = part;
  BlockScales own = scales;
  for (int64_t row = 0; row < part.rows; row += some.rows) {
    const int64_t pass = (row * passes + part.rows - 1) / part.rows;
    some.rows = (part.rows - row) / (passes - pass);
    own.rows = scales.rows + row * scales.row_stride;
    AddUpTo<L, Type, Scaled, L::kRowTile>(weights, some, x + row * x_stride, x_stride, &own,
                                          sums + row * sums_stride, sums_stride);
  }
}

template <class L>
void ClearSums(int64_t rows, int64_t columns, float* sums, int64_t sums_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; c += 16) L::Store(sums + r * sums_stride + c, L::Zero());
  }
}

// One group and up to kDecodedRows rows, where decoding is dear: every tile is decoded once.
template <class L, WeightType Type, bool Scaled>
void AddDecoded(const PackedWeights& weights, int64_t group, const MatmulPart& part, const float* x,
                int64_t x_stride, const BlockScales& scales, float* sums, int64_t sums_stride) {
  alignas(64) float numbers[kTileDepth * 16];
  alignas(64) float partial[Scaled ? kDecodedRows * 16 : 16];  // of 128 k
  float* to = Scaled ? partial : sums;
  const int64_t stride = Scaled ? 16 : sums_stride;
  if (Scaled) ClearSums<L>(part.rows, 16, partial, 16);
  for (int64_t block = part.block_begin; block < part.block_end; ++block) {
    for (int64_t line = 0; line < LineCount(Type); ++line) {
      typename L::F k[4];
      ReadLine<L, Type>(weights.Tile(group, block) + line * 64, k);
      for (int64_t i = 0; i < LineDepth(Type); ++i) {
        L::Store(numbers + (line * LineDepth(Type) + i) * 16, k[i]);
      }
    }
    BlockProduct<L, 1>(numbers, part.rows, x + block * kTileDepth, x_stride, to, stride);
    if (!Scaled || ((block + 1) % 4 != 0 && block + 1 != part.block_end)) continue;
    const typename L::F channels =
        L::Load(scales.channels + block / 4 * scales.channel_stride + group * 16);
    for (int64_t r = 0; r < part.rows; ++r) {
      const typename L::F row_scale = L::Set(scales.rows[r * scales.row_stride + block / 4]);
      float* sum = sums + r * sums_stride;
      L::Store(sum, L::Fma(L::Load(partial + r * 16), L::Mul(row_scale, channels), L::Load(sum)));
    }
    ClearSums<L>(part.rows, 16, partial, 16);
  }
}

// Adds the products of `part` to their sums.
template <class L, WeightType Type, bool Scaled>
void AddRows(const PackedWeights& weights, const MatmulPart& part, const float* x, int64_t x_stride,
             const BlockScales& scales, float* sums, int64_t sums_stride) {
  const bool decode = L::kDecodes && part.rows > L::kRowTile;
  const int64_t rows = decode ? kDecodedRows : part.rows;
  // What a pass reads of a strip of weights stays in the cache for the next.
  const bool once = part.rows <= L::kRowTile;
  const int64_t groups = once ? part.group_end - part.group_begin : decode ? 1 : kStripGroups;
  MatmulPart some = part;
  BlockScales own = scales;
  for (int64_t row = 0; row < part.rows; row += rows) {
    some.rows = part.rows - row < rows ? part.rows - row : rows;
    own.rows = scales.rows + row * scales.row_stride;
    for (int64_t group = part.group_begin; group < part.group_end; group += groups) {
      some.group_begin = group;
      some.group_end = group + groups < part.group_end ? group + groups : part.group_end;
      float* to = sums + row * sums_stride + (group - part.group_begin) * 16;
      if constexpr (L::kDecodes) {
        if (decode) {
          AddDecoded<L, Type, Scaled>(weights, group, some, x + row * x_stride, x_stride, own, to,
                                      sums_stride);
          continue;
        }
      }
      AddPasses<L, Type, Scaled>(weights, some, x + row * x_stride, x_stride, own, to, sums_stride);
    }
  }
}

template <class L, bool Scaled = false>
void AddProducts(const PackedWeights& weights, const MatmulPart& part, const float* x,
                 int64_t x_stride, const BlockScales& scales, float* sums, int64_t sums_stride) {
  const auto add = weights.type == WeightType::kBf16 ? AddRows<L, WeightType::kBf16, Scaled>
                                                     : AddRows<L, WeightType::kFp8, Scaled>;
  add(weights, part, x, x_stride, scales, sums, sums_stride);
}

template <class L>
void Sum(const PackedWeights& weights, const MatmulPart& part, const float* x, int64_t x_stride,
         float* sums, int64_t sums_stride) {
  ClearSums<L>(part.rows, (part.group_end - part.group_begin) * 16, sums, sums_stride);
  AddProducts<L>(weights, part, x, x_stride, {}, sums, sums_stride);
}

template <class L>
void SumScaled(const PackedWeights& weights, const MatmulPart& part, const float* x,
               int64_t x_stride, const BlockScales& scales, float* sums, int64_t sums_stride) {
  ClearSums<L>(part.rows, (part.group_end - part.group_begin) * 16, sums, sums_stride);
  AddProducts<L, true>(weights, part, x, x_stride, scales, sums, sums_stride);
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
