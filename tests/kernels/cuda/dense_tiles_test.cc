// The layout of dense products: banks of shared memory, the order of tiles, the stack of sums.

#include <vector>

#include "core/tensor/bare/tree.h"
#include "kernels/cuda/dense/tiles.h"
#include "tests/kernels/cuda/dense_problem.h"

namespace octavo::cuda {
namespace {

TEST(CudaDenseTiles, PanelsHaveNoBankConflicts) {
  std::vector<bool> taken(64 * 8);
  for (int row = 0; row < 64; ++row) {
    for (int chunk = 0; chunk < 8; ++chunk) {
      const int at = PanelOffset(row, chunk);
      ASSERT_EQ(at % kChunkBytes, 0);
      ASSERT_EQ(at / kPanelBytes, row);
      ASSERT_FALSE(taken[Size(at / kChunkBytes)]);
      taken[Size(at / kChunkBytes)] = true;
    }
  }
  for (int row = 0; row < 64; row += 8) {
    for (int chunk = 0; chunk < 8; ++chunk) {
      unsigned groups = 0;  // of four banks; ldmatrix reads eight rows at once
      for (int i = 0; i < 8; ++i) groups |= 1u << (PanelOffset(row + i, chunk) % 128 / 16);
      EXPECT_EQ(groups, 0xffu);
    }
  }
  for (int row = 0; row < 64; row += 4) {
    for (int chunk = 0; chunk < 8; chunk += 2) {
      unsigned groups = 0;  // half a warp reads 8 bytes each, of four rows
      for (int i = 0; i < 8; ++i) {
        groups |= 1u << (PanelOffset(row + i / 2, chunk + i % 2) % 128 / 16);
      }
      EXPECT_EQ(groups, 0xffu);
    }
  }
  for (const DenseTile tile : kTiles) {
    unsigned banks = 0;  // a warp writes sums: rows 2t, channels g
    for (int lane = 0; lane < 32; ++lane) {
      banks |= 1u << (SumOffset(ShapeOf(tile), lane % 4 * 2, lane / 4) % 32);
    }
    EXPECT_EQ(banks, 0xffffffffu);
  }
}

TEST(CudaDenseTiles, EveryTileOnce) {
  for (const int64_t rows : {1, 64, 65, 900}) {
    for (const int64_t channels : {1, 128, 1024, 1025, 3000}) {
      const TileOrder order = TileOrder::Of(ShapeOf(DenseTile::kRows64), rows, channels, 0);
      std::vector<int> seen(Size(order.count()));
      for (int64_t i = 0; i < order.count(); ++i) {
        const TileOrder::Place place = order.At(i);
        ASSERT_LT(place.row, order.along_rows);
        ASSERT_LT(place.channel, order.along_channels);
        ++seen[Size(place.row * order.along_channels + place.channel)];
      }
      for (const int n : seen) ASSERT_EQ(n, 1);
    }
  }
}

TEST(CudaDenseTiles, AStackMergesLikeTheTree) {
  for (int count = 1; count <= kDensePiecesMax; ++count) {
    std::vector<MergeStep> steps;
    std::vector<int> stack;
    for (int leaf = 0; leaf < count; ++leaf) {
      EXPECT_LE(static_cast<int>(stack.size()), StackDepth(count));
      stack.push_back(leaf);
      for (int left = MergesAfter(leaf, count); left > 0; --left) {
        const int from = stack.back();
        stack.pop_back();
        steps.push_back({stack.back(), from});
      }
    }
    EXPECT_EQ(stack.size(), 1u);
    EXPECT_EQ(steps, MergeSteps(count));
  }
}

}  // namespace
}  // namespace octavo::cuda
