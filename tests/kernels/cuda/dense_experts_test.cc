// Products of experts: every expert's rows get the bits that they would get alone.

#include "tests/kernels/cuda/dense_problem.h"

namespace octavo::cuda {
namespace {

constexpr int64_t kChannels = 37;

// Weights of all experts as one operand, one expert after the other; scales of blocks for each.
struct Mixture {
  Mixture(DenseTypes types, std::vector<int32_t> offsets_, int64_t spare, int64_t depth,
          uint32_t seed)
      : offsets(std::span<const int32_t>(offsets_)),
        rows(offsets_.back() + spare),
        experts(static_cast<int>(offsets_.size()) - 1),
        problem(types, rows, kChannels * experts, depth, seed),
        w_scales(Size(experts, problem.blocks + 2)),
        row_scales(Size(experts)),
        channel_scales(Size(experts, kChannels)),
        bias(Size(experts, kChannels)) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> scale(0.01f, 3.0f);
    for (const auto& scales : {w_scales.span(), row_scales.span(), channel_scales.span()}) {
      for (float& s : scales) s = scale(random);
    }
    for (float& b : bias.span()) b = scale(random) - 1;
  }
  Dense Call() const {
    Dense call = problem.Call(rows);
    call.channels = kChannels;
    call.w_scales = w_scales.data();
    call.experts = {experts, offsets.data(), row_scales.data()};
    call.finish.channel_scales = channel_scales.data();
    call.finish.bias = bias.data();
    return call;
  }
  // An expert's part of a call.
  Dense Alone(Dense call, int expert) const {
    const int64_t first = offsets[Size(expert)];
    call.rows = offsets[Size(expert) + 1] - first;
    call.x = static_cast<const std::byte*>(call.x) + first * call.x_stride * XBytes(call.types);
    call.w = static_cast<const std::byte*>(call.w) +
             expert * kChannels * call.w_stride * WBytes(call.types);
    call.x_scales += first * call.x_scale_stride;
    call.w_scales += expert * call.w_scale_stride;
    call.finish.row_scale = row_scales[Size(expert)];
    call.finish.channel_scales += expert * kChannels;
    call.finish.bias += expert * kChannels;
    call.experts = {};
    return call;
  }

  Unified<int32_t> offsets;
  int64_t rows;
  int experts;
  Problem problem;
  Unified<float> w_scales, row_scales, channel_scales, bias;
};

// Empty experts at both ends and in between; all on one; one row each; no row at all.
const std::vector<int32_t> kOffsets[] = {
    {0, 0, 3, 3, 3, 20, 29, 29}, {0, 0, 0, 21, 21}, {0, 1, 2, 3, 4}, {0, 0, 0}, {0, 17}};

void ExpectEveryExpertAlone(const Mixture& mixture, const Dense& call) {
  const Unified<float> y(Size(call.rows, kChannels));
  for (float& value : y.span()) value = -77;
  Dense all = call;
  all.finish.out_f32 = y.data();
  all.finish.stride = kChannels;
  LaunchWithWorkspace(all);
  EXPECT_TRUE(y.Intact());
  int64_t row = 0;
  for (int expert = 0; expert < mixture.experts; ++expert) {
    const std::vector<float> want = Product(mixture.Alone(call, expert));
    const float* got = y.data() + row * kChannels;
    EXPECT_TRUE(SameBits({got, got + want.size()}, want)) << expert;
    row = mixture.offsets[Size(expert) + 1];
  }
  for (size_t i = Size(row, kChannels); i < y.size(); ++i) ASSERT_EQ(y[i], -77) << i;
}

TEST(CudaDenseExperts, EveryExpertAsAlone) {
  uint32_t seed = 1;
  for (const DenseTypes types : kTypes) {
    for (const std::vector<int32_t>& offsets : kOffsets) {
      for (const int64_t spare : {0, 2}) {
        SCOPED_TRACE(Describe(types, DenseTile::kAny, offsets.back(), spare, seed));
        const Mixture mixture(types, offsets, spare, 149, seed++);
        ExpectEveryExpertAlone(mixture, mixture.Call());
      }
    }
  }
}

TEST(CudaDenseExperts, UnitsAndTilesDoNotShow) {
  for (const DenseTypes types : kTypes) {
    const UnitCut cut{types == DenseTypes::kFp8Blocks ? 128 : 64, 3};
    const Mixture mixture(types, kOffsets[0], 1, cut.size * 3 - 5, 40);
    Dense call = mixture.Call();
    call.units = cut;
    call.run = {0, 3};
    for (const DenseTile tile : {DenseTile::kRows8, DenseTile::kRows16, DenseTile::kRows64}) {
      call.tile = tile;
      call.blocks = tile == DenseTile::kRows16 ? kOne : kMany;
      SCOPED_TRACE(Describe(types, tile, call.rows, kChannels, call.depth));
      ExpectEveryExpertAlone(mixture, call);
    }
  }
}

TEST(CudaDenseExperts, RanksGiveTheBitsOfOne) {
  for (const DenseTypes types : kTypes) {
    const UnitCut cut{types == DenseTypes::kFp8Blocks ? 128 : 64, 5};
    const Mixture mixture(types, kOffsets[0], 2, cut.size * 5, 60);
    Dense call = mixture.Call();
    call.units = cut;
    std::vector<uint32_t> gathered;
    std::vector<LeafRun> pieces;
    for (const LeafRun run : {LeafRun{0, 1}, LeafRun{1, 5}}) {
      Dense part = call;
      part.run = run;
      part.depth = (run.end - run.begin) * cut.size;
      part.x = mixture.problem.x.At(0, run.begin * cut.size);
      part.w = mixture.problem.w.At(0, run.begin * cut.size);
      part.x_scales += run.begin;
      part.w_scales += run.begin;
      for (const LeafRun& piece : MaximalSubtrees(5, run)) pieces.push_back(piece);
      for (const uint32_t bits : Sums(part)) gathered.push_back(bits);
    }
    const Unified<uint32_t> sums{std::span<const uint32_t>(gathered)};
    const Unified<float> y(Size(call.rows, kChannels)), one(y.size());
    for (size_t i = 0; i < y.size(); ++i) y[i] = one[i] = -77;
    call.finish.stride = kChannels;
    call.finish.out_f32 = y.data();
    Launch(DenseMerge{.units = 5,
                      .pieces = pieces,
                      .int32 = types == DenseTypes::kInt8,
                      .sums = sums.data(),
                      .rows = call.rows,
                      .channels = kChannels,
                      .experts = call.experts,
                      .finish = call.finish},
           nullptr);
    ASSERT_TRUE(simt::Finish());
    call.run = {0, 5};
    call.finish.out_f32 = one.data();
    LaunchWithWorkspace(call);
    EXPECT_TRUE(y.Intact() && one.Intact());
    EXPECT_EQ(std::memcmp(y.data(), one.data(), y.size() * 4), 0) << static_cast<int>(types);
  }
}

TEST(CudaDenseExperts, TilesOfAllExpertsAreEnough) {
  std::mt19937 random(3);
  for (int round = 0; round < 1000; ++round) {
    const int experts = static_cast<int>(random() % 20) + 1;
    const TileShape shape = ShapeOf(kTiles[random() % 4]);
    int64_t rows = 0, tiles = 0;
    for (int i = 0; i < experts; ++i) {
      const int64_t count = random() % 3 == 0 ? 0 : random() % 150;
      rows += count;
      tiles += CeilDiv(count, shape.rows);
    }
    ASSERT_LE(tiles, TileOrder::Of(shape, rows, 1, experts).along_rows);
  }
}

}  // namespace
}  // namespace octavo::cuda
