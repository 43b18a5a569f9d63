#pragma once

// Products of activations and packed weights, y[row][channel] = sum over k of x[row][k] *
// w[channel][k], in the order that docs/numerics.md section 5 fixes:
//
//   32-block rule  blocks of 32 k ascending; inside a block one FMA chain over the even k and one
//                  over the odd k, both from zero; sum += even + odd
//   block scales   per 128 k ascending: p = the 32-block rule from zero,
//                  sum = fma(p, row_scale * channel_scale, sum)
//   INT8           exact in INT32 (modulo 2^32)
//
// A call sums some 32-blocks of K (one unit, or a whole K) for some rows and channels, from zero.
// Units are merged by the caller over Tree. A row's bits depend on no other row, so kernels for few
// and for many rows may be mixed.
//
// Packed weights: tiles of 16 channels x 32 k, `block_count` tiles of one group of 16 channels one
// after the other, then the next group. Channels and k that do not exist are zero. Inside a tile:
//   BF16  16 lines of 64 bytes; line l holds, for channel 0..15, k = 2l and 2l + 1
//   FP8   8 lines; line l: 16-byte lane j of 4 holds, for channels 4j..4j+3, k = 4l and 4l + 1,
//         then for the same channels k = 4l + 2 and 4l + 3
//   INT8  8 lines; line l holds, for channel 0..15, k = 4l .. 4l + 3

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

enum class WeightType : uint8_t { kBf16 = 0, kFp8 = 1, kInt8 = 2 };

inline constexpr int64_t kTileChannels = 16;
inline constexpr int64_t kTileDepth = 32;

[[gnu::always_inline]] inline constexpr int64_t ElementBytes(WeightType type) {
  return type == WeightType::kBf16 ? 2 : 1;
}
[[gnu::always_inline]] inline constexpr int64_t TileBytes(WeightType type) {
  return kTileChannels * kTileDepth * ElementBytes(type);
}

// Where element (channel, k) of a tile starts, in bytes.
[[gnu::always_inline]] inline constexpr int64_t TileOffset(WeightType type, int64_t channel,
                                                           int64_t k) {
  switch (type) {
    case WeightType::kBf16:
      return (k / 2) * 64 + channel * 4 + (k % 2) * 2;
    case WeightType::kFp8:
      return (k / 4) * 64 + (channel / 4) * 16 + (k % 4 / 2) * 8 + (channel % 4) * 2 + k % 2;
    case WeightType::kInt8:
      return (k / 4) * 64 + channel * 4 + k % 4;
  }
  return 0;
}

// Does not own its memory. 64-byte aligned.
struct PackedWeights {
  WeightType type = WeightType::kBf16;
  int64_t group_count = 0;  // of 16 channels
  int64_t block_count = 0;  // of 32 k
  const std::byte* tiles = nullptr;
  // INT8 only: the sum over k of each channel, 16 * group_count; some instruction sets need it.
  const int32_t* channel_sums = nullptr;

  [[gnu::always_inline]] uint64_t bytes() const {
    return static_cast<uint64_t>(group_count * block_count * TileBytes(type));
  }

  [[gnu::always_inline]] const std::byte* Tile(int64_t group, int64_t block) const {
    return tiles + (group * block_count + block) * TileBytes(type);
  }
};

// Writes `count` elements k_begin.. of one channel into packed tiles. `elements` are stored values
// (BF16 or codes). REQUIRES k_begin % 32 == 0.
void PackChannel(const PackedWeights& layout, std::byte* tiles, int64_t channel, int64_t k_begin,
                 const std::byte* elements, int64_t count);

// Which part of a product a call computes.
struct MatmulPart {
  int64_t rows = 0;
  int64_t group_begin = 0;  // groups of 16 channels
  int64_t group_end = 0;
  int64_t block_begin = 0;  // blocks of 32 k
  int64_t block_end = 0;
};

// Scales of a block-scaled product. Block b of 128 k begins at 32-block 4b of the packed weights.
struct BlockScales {
  const float* rows = nullptr;  // [row][row_stride]: block b at +b
  int64_t row_stride = 0;
  const float* channels = nullptr;  // [block][channel_stride]: channel c at +c
  int64_t channel_stride = 0;
};

struct MatmulOps {
  // BF16 and FP8 weights. `x` holds F32 numbers that are BF16 values: row r at x + r * x_stride,
  // element 0 belonging to 32-block 0 of the weights; zero where the packed k does not exist.
  // sums[r * sums_stride + (channel - 16 * group_begin)].
  void (*sum)(const PackedWeights& weights, const MatmulPart& part, const float* x,
              int64_t x_stride, float* sums, int64_t sums_stride);
  // The same under block scales. REQUIRES part.block_begin % 4 == 0.
  void (*sum_scaled)(const PackedWeights& weights, const MatmulPart& part, const float* x,
                     int64_t x_stride, const BlockScales& scales, float* sums, int64_t sums_stride);
  // INT8 weights and activations. REQUIRES all 32-blocks in one part (channel_sums are of the whole
  // K).
  void (*sum_int8)(const PackedWeights& weights, const MatmulPart& part, const int8_t* x,
                   int64_t x_stride, int32_t* sums, int64_t sums_stride);

  // out[i] = F32 of the BF16 x[i].
  void (*widen)(const uint16_t* x, int64_t count, float* out);
  // into[i] += from[i].
  void (*add)(float* into, const float* from, int64_t count);
  // into[i] = fma(weight, from[i], into[i]): experts add up.
  void (*add_weighted)(float* into, const float* from, float weight, int64_t count);
  // out[i] = F32 of sums[i], rounded to nearest even.
  void (*from_int32)(const int32_t* sums, int64_t count, float* out);
  // One row: y = (sum * row_scale) * channel_scales[i], + bias[i], + residual[i]; `finish` rounds
  // to BF16. Null pointers leave their step out. `residual` may be `out`.
  void (*finish)(const float* sums, int64_t count, float row_scale, const float* channel_scales,
                 const float* bias, const uint16_t* residual, uint16_t* out);
  void (*finish_f32)(const float* sums, int64_t count, float row_scale, const float* channel_scales,
                     const float* bias, float* out);
};

// The kernels of `isa`. REQUIRES: IsSupported(isa).
const MatmulOps& MatmulOpsFor(Isa isa);

std::span<const KernelRow> MatmulKernelRows();

}  // namespace octavo
