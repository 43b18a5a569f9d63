#pragma once

// How a dense product is laid out: tile shapes, where 16 bytes of a row lie in shared memory, in
// which order tiles are taken, and when partial sums merge. Plain functions, for kernels, their
// launches and tests alike.

#include <bit>
#include <cstdint>

#include "core/tensor/bare/units.h"
#include "kernels/cuda/dense/dense.h"
#include "kernels/cuda/simt/grid.h"

namespace octavo::cuda {

// Weights are the 16-wide side of every mma and rows of x the 8-wide one, in all tiles alike: few
// rows waste little, and a product's place within a step is the same in all.
struct TileShape {
  int channels = 0;
  int rows = 0;
  int warps_channels = 0;  // warps along the channels
  int warps_rows = 0;
  int stages = 0;  // of asynchronous copies

  constexpr int threads() const { return warps_channels * warps_rows * simt::kWarp; }
};

constexpr TileShape ShapeOf(DenseTile tile) {
  switch (tile) {
    case DenseTile::kRows8:  // weights are streamed: small tiles, many copies under way
      return {.channels = 32, .rows = 8, .warps_channels = 2, .warps_rows = 1, .stages = 6};
    case DenseTile::kRows16:
      return {.channels = 32, .rows = 16, .warps_channels = 2, .warps_rows = 1, .stages = 6};
    case DenseTile::kAny:
    case DenseTile::kRows64:
      return {.channels = 128, .rows = 64, .warps_channels = 4, .warps_rows = 2, .stages = 3};
    case DenseTile::kRows128:
      return {.channels = 128, .rows = 128, .warps_channels = 2, .warps_rows = 4, .stages = 3};
  }
  return {};
}

constexpr int XBytes(DenseTypes types) {
  return types == DenseTypes::kBf16 || types == DenseTypes::kBf16Fp8 ? 2 : 1;
}
constexpr int WBytes(DenseTypes types) { return types == DenseTypes::kBf16 ? 2 : 1; }

// A stage holds kPanelBytes of every row of w, and of x what has the same k: one or two panels.
inline constexpr int kPanelBytes = 128;
inline constexpr int kChunkBytes = 16;
constexpr int StageDepth(DenseTypes types) { return kPanelBytes / WBytes(types); }
constexpr int XPanels(DenseTypes types) { return XBytes(types) / WBytes(types); }
constexpr int StageBytes(DenseTypes types, TileShape shape) {
  return (shape.channels + shape.rows * XPanels(types)) * kPanelBytes;
}

// Where chunk 0..7 of a row of a panel lies. Chunks of eight rows that follow each other at the
// same place fall into eight different groups of four banks (ldmatrix), and so do two chunks that
// follow each other, of four rows (loads of 8 bytes).
constexpr int PanelOffset(int row, int chunk) {
  const int turn = row % 4 * 2 + row / 4 % 2;
  return row * kPanelBytes + (chunk ^ turn) * kChunkBytes;
}

// Sums on their way out: one row of x after the other, so that four rows 2 apart start 8 banks
// apart and 8 channels of each fall into banks of their own.
constexpr int SumOffset(TileShape shape, int row, int channel) {
  return row * (shape.channels + 4) + channel;
}
constexpr int SharedBytes(DenseTypes types, TileShape shape) {
  const int stages = StageBytes(types, shape) * shape.stages;
  const int sums = SumOffset(shape, shape.rows, 0) * 4;
  return stages > sums ? stages : sums;
}

// The order in which tiles are taken: bands of 8 tiles along the channels; in a band all rows. So
// tiles that are worked on at once share weights and rows in the L2 cache.
struct TileOrder {
  static constexpr int64_t kBand = 8;
  int64_t along_rows = 0;
  int64_t along_channels = 0;

  struct Place {
    int64_t row = 0;  // counted in tiles
    int64_t channel = 0;
    bool operator==(const Place&) const = default;
  };

  // With experts, whose rows are cut into tiles each on their own, at least as many as there are.
  static constexpr TileOrder Of(TileShape shape, int64_t rows, int64_t channels, int experts) {
    const int64_t along_rows = experts == 0 ? CeilDiv(rows, shape.rows)
                                            : rows / shape.rows + (experts < rows ? experts : rows);
    return {along_rows, CeilDiv(channels, shape.channels)};
  }
  constexpr int64_t count() const { return along_rows * along_channels; }
  constexpr Place At(int64_t index) const {
    const int64_t band = index / (kBand * along_rows);
    const int64_t within = index - band * kBand * along_rows;
    const int64_t left = along_channels - band * kBand;
    const int64_t width = left < kBand ? left : kBand;
    return {within / width, band * kBand + within % width};
  }
};

// Tree(count) by a stack: leaves are pushed in ascending order, and after leaf `leaf` the topmost
// two sums become one this many times.
constexpr int MergesAfter(int leaf, int count) {
  if (leaf + 1 == count) return std::popcount(static_cast<unsigned>(leaf));
  return std::countr_zero(static_cast<unsigned>(leaf) + 1);
}
// Sums that wait below the one on top, at most.
constexpr int StackDepth(int count) {
  return static_cast<int>(std::bit_width(static_cast<unsigned>(count > 0 ? count - 1 : 0)));
}

}  // namespace octavo::cuda
