#pragma once

// A tile of 64 keys or values in shared memory: rows of kDim BF16 numbers, in chunks of 16 bytes.
// Chunks of a row are exchanged by the row's number, so that the eight rows which ldmatrix reads at
// once lie in different banks.

#include <cstdint>

#include "kernels/cuda/attention/attention.h"

namespace octavo::cuda {

template <int kDim>
struct AttentionTile {
  static constexpr int kChunks = kDim / 8;
  static constexpr int kBytes = kAttentionTile * kDim * 2;

  static constexpr int kRowBytes = kChunks * 16;

  // Where a chunk of a row begins within it, in bytes; `row_in_8` = row % 8.
  static constexpr int ChunkOffset(int row_in_8, int chunk) { return (chunk ^ row_in_8) * 16; }
  // The same within the tile.
  static constexpr int Offset(int row, int chunk) {
    return row * kRowBytes + ChunkOffset(row % 8, chunk);
  }
};

}  // namespace octavo::cuda
