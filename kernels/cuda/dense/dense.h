#pragma once

// Products of linear layers on tensor cores: y[row][channel] = sum over k of x[row][k] *
// w[channel][k], then the epilogue of MatmulOps::finish (kernels/matmul.h).
//
// Everything is in the GPU's memory; matrices are row-major. REQUIRES: x and w begin at multiples
// of 16 bytes and so do their rows (x_stride, w_stride); `depth` itself may be anything, and what
// lies behind it in a row is not read. No FP8 code is a NaN.
//
// Order of sums. K is cut into units (core/tensor/bare/units.h), each begins at a multiple of its
// size, which is a multiple of 32 (kFp8Blocks: of 128). A unit is one chain from zero: mma.sync
// steps of 16 k (INT8: 32), ascending, every step at a multiple of its length from the unit's
// begin; the order within a step is the tensor core's own, always the same for the same GPU. Units
// are merged over Tree (core/tensor/bare/tree.h) in F32. So the bits of y[row][channel] depend on
// row and channel alone: not on the number of rows, the tile, the split over blocks, or on how many
// ranks the units lie. They are not the bits of the CPU (32-block rule); kInt8's are.
//
// How far off: with S = sum of |x||w| (block scales inside) an F32 sum is within
//   (ceil(K / 16) + units) * kDenseErrorPerStep * S
// of the exact one, if in a step every term, the running sum among them, loses less than 2^-23 of
// the largest: at most 24 such losses, since a step is four sums of five terms or fewer of more.
// Products are exact. Subnormal BF16 numbers may count as zeros.

#include <cstdint>
#include <span>

#include "core/tensor/bare/tree.h"
#include "core/tensor/bare/units.h"
#include "kernels/cuda/simt/grid.h"

namespace octavo::cuda {

enum class DenseTypes : uint8_t {
  kFp8,        // codes times codes
  kFp8Blocks,  // the same; per 128 k: p from zero, sum = fma(p, x scale * w scale, sum)
  kInt8,       // codes times codes, exact in INT32 (modulo 2^32)
  kBf16,       // BF16 times BF16
  kBf16Fp8,    // x BF16, w FP8 codes
};

// Bits do not depend on it. kAny: DenseTileFor chooses.
enum class DenseTile : uint8_t { kAny, kRows8, kRows16, kRows64, kRows128 };

inline constexpr float kDenseErrorPerStep = 0x1p-18f;
inline constexpr int kDensePiecesMax = 128;  // units of a product at most

// y = (sum * row scale) * channel scale, + bias, + residual; rounded to BF16 where `out` is given,
// as it is where `out_f32` is. Null pointers: the one scale for all, no bias, no residual.
struct DenseFinish {
  const float* row_scales = nullptr;
  float row_scale = 1;
  const float* channel_scales = nullptr;
  float channel_scale = 1;
  const float* bias = nullptr;
  const uint16_t* residual = nullptr;  // BF16 [rows][stride]; may be `out`
  uint16_t* out = nullptr;             // [rows][stride]
  float* out_f32 = nullptr;
  int64_t stride = 0;
};

// Experts, each with weights of its own, over rows sorted by expert. Then w is [count][channels][k]
// with rows w_stride apart, and w_scales, channel_scales and bias have `count` times what they have
// otherwise, one expert after the other. An expert's rows get the bits that they would get alone.
struct DenseExperts {
  int count = 0;  // 0: none, all rows have the same weights
  // [count + 1], ascending from 0: expert e has the rows offsets[e] to offsets[e + 1]. Rows from
  // offsets[count] on are not written.
  const int32_t* offsets = nullptr;
  const float* row_scales = nullptr;  // [count], in place of finish.row_scale
};

struct Dense {
  DenseTypes types = DenseTypes::kFp8;
  int64_t rows = 0;
  int64_t channels = 0;
  int64_t depth = 0;  // k that x and w hold: those of the units in `run`
  const void* x = nullptr;
  int64_t x_stride = 0;  // in elements
  const void* w = nullptr;
  int64_t w_stride = 0;

  // kFp8Blocks: x_scales[row][k / 128] and w_scales[channel / 128][k / 128].
  const float* x_scales = nullptr;
  int64_t x_scale_stride = 0;
  const float* w_scales = nullptr;
  int64_t w_scale_stride = 0;

  DenseExperts experts = {};

  // How all of K is cut, at most kDensePiecesMax units, and which units lie here. count 0: one
  // unit, which is here.
  UnitCut units;
  LeafRun run;

  // Where the result goes. `sums` null: to `finish`; REQUIRES all units here. Else the sums of the
  // maximal subtrees of `run` (MaximalSubtrees), [subtree][rows][channels], F32 or for kInt8 INT32.
  DenseFinish finish;
  void* sums = nullptr;

  void* workspace = nullptr;  // DenseWorkspaceBytes; free again when the stream has come past
  DenseTile tile = DenseTile::kAny;
  int blocks = 264;  // the GPU keeps busy: two for each multiprocessor. Bits do not depend on it
};

int64_t DenseWorkspaceBytes(const Dense& call);
void Launch(const Dense& call, simt::Stream stream);

// Merges what ranks made in `sums`: `pieces` are the subtrees of Tree(units) that tile it, in
// ascending order, at most kDensePiecesMax; sums is [piece][rows][channels].
struct DenseMerge {
  int units = 1;
  std::span<const LeafRun> pieces;  // the caller's memory, not the GPU's
  bool int32 = false;
  const void* sums = nullptr;
  int64_t rows = 0;
  int64_t channels = 0;
  DenseExperts experts = {};
  DenseFinish finish;
};
void Launch(const DenseMerge& call, simt::Stream stream);

// A kernel that there is.
struct DenseRow {
  DenseTypes types;
  DenseTile tile;
  int sm;  // at least
  int tile_rows;
  int tile_channels;
  int threads;
  int shared_bytes;
};
std::span<const DenseRow> DenseKernels();

// The tile that suits a shape where the GPU keeps so many blocks busy.
DenseTile DenseTileFor(DenseTypes types, int64_t rows, int64_t channels, int blocks);

}  // namespace octavo::cuda
