// Hessians against sums in F64, and the same bits however tokens are cut, on every instruction set
// and number of threads.

#include "worker/quant/solve/hessian.h"

#include <cmath>
#include <string>

#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/tree.h"
#include "core/tensor/bare/units.h"
#include "kernels/matmul.h"
#include "tests/worker/quant/solve/solve_fixture.h"

namespace octavo {
namespace {

std::vector<float> Upper(const Hessian& hessian) {
  std::vector<float> out;
  for (int64_t i = 0; i < hessian.channels; ++i) {
    for (int64_t j = i; j < hessian.channels; ++j) out.push_back(hessian.At(i, j));
  }
  return out;
}

TEST(Hessian, IsTheSumOfProductsOverTokens) {
  const int64_t tokens = 2500;
  const int64_t channels = 90;
  const auto x = CorrelatedTokens(1, tokens, channels, 3);
  Arena arena(0);
  ThreadPool pool(2);
  const Hessian h = *HessianOf(x.data(), tokens, channels, channels, BestIsa(), &arena, &pool);
  EXPECT_EQ(h.tokens, tokens);
  for (int64_t i = 0; i < channels; ++i) {
    for (int64_t j = 0; j < channels; ++j) {
      double want = 0;
      double size = 0;
      for (int64_t t = 0; t < tokens; ++t) {
        const double term = static_cast<double>(F32FromBf16(x[t * channels + i])) *
                            static_cast<double>(F32FromBf16(x[t * channels + j]));
        want += term;
        size += std::abs(term);
      }
      ASSERT_NEAR(h.At(i, j), want, size * 1e-6) << i << " " << j;
    }
  }
}

// Powers of two only change exponents: the Hessian of folded tokens, bit by bit.
TEST(Hessian, FoldsLikeItsTokens) {
  const int64_t tokens = 300;
  const int64_t channels = 70;
  const auto x = CorrelatedTokens(5, tokens, channels, 3);
  std::vector<int8_t> exponents(channels);
  for (int64_t i = 0; i < channels; ++i) exponents[i] = static_cast<int8_t>(i % 33 - 16);
  auto folded = x;
  for (int64_t i = 0; i < tokens * channels; ++i) {
    folded[i] = Bf16FromF32(std::ldexp(F32FromBf16(x[i]), -exponents[i % channels]));
  }
  Arena arena(0);
  ThreadPool pool(2);
  Hessian h = *HessianOf(x.data(), tokens, channels, channels, BestIsa(), &arena, &pool);
  const auto before = Upper(h);
  FoldHessian(exponents, &h);
  EXPECT_NE(Upper(h), before);
  EXPECT_EQ(Upper(h),
            Upper(*HessianOf(folded.data(), tokens, channels, channels, BestIsa(), &arena, &pool)));
}

TEST(Hessian, NeitherCallsNorThreadsNorInstructionSetsShow) {
  const int64_t tokens = 700;
  const int64_t channels = 130;
  const auto x = CorrelatedTokens(2, tokens, channels, 3);
  Arena arena(0);
  ThreadPool one(1);
  ThreadPool two(2);
  const auto want =
      Upper(*HessianOf(x.data(), tokens, channels, channels, Isa::kReference, &arena, &one));
  for (const Isa isa : kIsasBestFirst) {
    if (!IsSupported(isa)) continue;
    for (ThreadPool* pool : {&one, &two}) {
      for (const int64_t step : {1, 100, 256, 300, 700}) {
        HessianLeaf leaf = *HessianLeaf::Make(channels, isa, &arena, pool);
        for (int64_t t = 0; t < tokens; t += step) {
          leaf.Add(x.data() + t * channels, std::min(step, tokens - t), channels);
        }
        EXPECT_EQ(Upper(leaf.Finish()), want) << Name(isa) << " " << step;
      }
    }
  }
}

TEST(Hessian, LeavesAreAtMostSixteenOfWhole1024s) {
  EXPECT_EQ(HessianLeafTokens(0), 1024);
  EXPECT_EQ(HessianLeafTokens(16384), 1024);
  EXPECT_EQ(HessianLeafTokens(16385), 2048);
  EXPECT_EQ(HessianLeafTokens(1 << 20), 65536);
}

// The tree is that of core/tensor/bare/tree.h for every number of leaves, and merging takes no more
// memory than four sums beside the leaf.
TEST(Hessian, LeavesMergeOverTree) {
  const FpEnv env;
  const int64_t channels = 32;
  Arena arena(0);
  ThreadPool pool(1);
  const uint64_t one_bytes = 32 * 32 * sizeof(float);  // a page
  for (int count = 1; count <= 16; ++count) {
    std::vector<std::vector<float>> leaves;
    HessianTree tree(BestIsa(), &pool);
    uint64_t most = 0;
    for (int i = 0; i < count; ++i) {
      const auto x = CorrelatedTokens(static_cast<uint64_t>(i), 40, channels, 2);
      Hessian leaf = *HessianOf(x.data(), 40, channels, channels, BestIsa(), &arena, &pool);
      leaves.push_back(Upper(leaf));
      most = std::max(most, arena.used_bytes());
      tree.Push(std::move(leaf));
    }
    for (const MergeStep& step : MergeSteps(count)) {
      for (size_t i = 0; i < leaves[0].size(); ++i) leaves[step.into][i] += leaves[step.from][i];
    }
    const Hessian sum = tree.Finish();
    EXPECT_EQ(sum.tokens, 40 * count);
    EXPECT_EQ(Upper(sum), leaves[0]) << count;
    EXPECT_LE(most, 5 * one_bytes) << count;
  }
}

TEST(Hessian, SaysWhenItDoesNotFit) {
  Arena arena(1 << 20);
  ThreadPool pool(1);
  EXPECT_EQ(HessianLeaf::Make(1000, BestIsa(), &arena, &pool).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace octavo
