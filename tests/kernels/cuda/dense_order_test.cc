// The bits of a dense product depend on its operands alone: not on other rows, on the tile, on the
// split over blocks or on how many ranks its units lie.

#include "tests/kernels/cuda/dense_problem.h"

namespace octavo::cuda {
namespace {

// Units of one stage or of two, the second not full, none of which ends where a stage would.
UnitCut CutOf(DenseTypes types, int count) {
  const int64_t even = types == DenseTypes::kFp8Blocks ? 256 : 160;
  const int64_t odd = types == DenseTypes::kFp8Blocks ? 128 : 32;
  return {count % 2 == 0 ? even : odd, count};
}
// The depth of so many units, the last of several short.
int64_t DepthOf(const UnitCut& cut) { return cut.size * cut.count - (cut.count > 1 ? 21 : 0); }

TEST(CudaDense, RowsTilesAndSplitsDoNotShow) {
  for (const DenseTypes types : kTypes) {
    const UnitCut cut = CutOf(types, 2);
    const Problem problem(types, 100, 37, DepthOf(cut), 77);
    Dense call = problem.Call(100);
    call.units = cut;
    call.run = {0, cut.count};
    const std::vector<float> all = Product(call);
    ExpectNear(problem, all, 100, cut.count);
    for (const int64_t rows : {1, 8, 9, 17, 65}) {
      call.rows = rows;
      call.blocks = rows % 2 == 0 ? kMany : 3;
      const std::vector<float> some = Product(call);
      EXPECT_TRUE(SameBits(some, {all.begin(), all.begin() + rows * 37})) << rows;
    }
    for (const DenseTile tile : kTiles) {
      for (const int blocks : {kOne, kMany}) {
        if (!Exists(types, tile)) continue;
        call.rows = 20;
        call.tile = tile;
        call.blocks = blocks;
        EXPECT_TRUE(SameBits(Product(call), {all.begin(), all.begin() + 20 * 37}))
            << Describe(types, tile, 20, 37, problem.x.depth);
      }
    }
  }
}

TEST(CudaDense, EachRowAlone) {
  for (const DenseTypes types : kTypes) {
    const Problem problem(types, 300, 19, 100, 5);
    const std::vector<float> all = Product(problem.Call(300));
    for (int64_t row = 0; row < 300; ++row) {
      Dense call = problem.Call(1);
      call.x = problem.x.At(row, 0);
      call.x_scales += row * call.x_scale_stride;
      ASSERT_TRUE(SameBits(Product(call), {all.begin() + row * 19, all.begin() + (row + 1) * 19}))
          << row;
    }
  }
}

// The call of one rank of several.
Dense CallOfRank(const Problem& problem, const UnitCut& cut, LeafRun run) {
  Dense call = problem.Call(problem.x.rows);
  const int64_t begin = run.begin * cut.size;
  call.units = cut;
  call.run = run;
  call.depth = std::min(run.end * cut.size, problem.x.depth) - begin;
  call.x = problem.x.At(0, begin);
  call.w = problem.w.At(0, begin);
  call.x_scales += begin / kScaleBlock;
  call.w_scales += begin / kScaleBlock;
  return call;
}

TEST(CudaDense, UnitsMergeOverTheTree) {
  const FpEnv environment;
  for (const DenseTypes types : {DenseTypes::kFp8, DenseTypes::kFp8Blocks, DenseTypes::kBf16Fp8}) {
    for (const int count : {1, 2, 3, 6, 7, 8, 13, 33}) {
      const UnitCut cut = CutOf(types, count);
      const Problem problem(types, 3, 40, DepthOf(cut), 31);
      std::vector<std::vector<float>> units;
      for (int i = 0; i < count; ++i) {
        Dense unit = CallOfRank(problem, cut, {i, i + 1});
        unit.units = {};
        units.push_back(Product(unit));
      }
      for (const MergeStep& step : MergeSteps(count)) {
        std::vector<float>& into = units[Size(step.into)];
        for (size_t i = 0; i < into.size(); ++i) into[i] += units[Size(step.from)][i];
      }
      for (const int blocks : {kOne, kMany}) {
        Dense call = CallOfRank(problem, cut, {0, count});
        call.blocks = blocks;
        EXPECT_TRUE(SameBits(Product(call), units[0])) << count << " units, " << blocks;
      }
    }
  }
}

TEST(CudaDense, RanksGiveTheBitsOfOne) {
  for (const DenseTypes types : kTypes) {
    for (const int count : {3, 8}) {
      const UnitCut cut = CutOf(types, count);
      const Problem problem(types, 10, 37, DepthOf(cut), 123);
      const std::vector<float> one = Product(CallOfRank(problem, cut, {0, count}));
      for (const int ranks : {1, 2, 3, 4}) {
        std::vector<LeafRun> pieces;
        std::vector<uint32_t> sums;
        for (int rank = 0; rank < ranks; ++rank) {
          const LeafRun run = RunOfRank(count, ranks, rank);
          for (const LeafRun& piece : MaximalSubtrees(count, run)) pieces.push_back(piece);
          Dense call = CallOfRank(problem, cut, run);
          call.blocks = rank % 2 == 0 ? kMany : 2;
          for (const uint32_t bits : Sums(call)) sums.push_back(bits);
        }
        const Unified<uint32_t> gathered{std::span<const uint32_t>(sums)};
        const Unified<float> y(one.size());
        Launch(DenseMerge{.units = count,
                          .pieces = pieces,
                          .int32 = types == DenseTypes::kInt8,
                          .sums = gathered.data(),
                          .rows = 10,
                          .channels = 37,
                          .finish = {.out_f32 = y.data(), .stride = 37}},
               nullptr);
        ASSERT_TRUE(simt::Finish());
        EXPECT_TRUE(y.Intact());
        EXPECT_EQ(std::memcmp(y.data(), one.data(), one.size() * 4), 0)
            << Describe(types, DenseTile::kAny, ranks, count, cut.size);
      }
    }
  }
}

}  // namespace
}  // namespace octavo::cuda
