// Weighted sums of visits on a GPU against the CPU's, bit for bit. Runs on the host twin of simt.h
// everywhere and, in octavo-gpu-check, on a GPU.

#include "kernels/cuda/experts/experts.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"
#include "kernels/matmul.h"

namespace octavo::cuda {
namespace {

using simt::Unified;

struct Shape {
  int64_t rows, per_token, columns;
};

// Visits in a random order, as many as there are.
struct Problem {
  explicit Problem(const Shape& of)
      : shape(of),
        visited(static_cast<size_t>(of.rows * of.per_token * of.columns)),
        weights(static_cast<size_t>(of.rows * of.per_token)),
        visits(weights.size()),
        x(static_cast<size_t>(of.rows * of.columns)) {
    std::mt19937 random(static_cast<uint32_t>(of.rows * 131 + of.columns));
    std::normal_distribution<float> normal(0.0f, 2.0f);
    for (size_t i = 0; i < visited.size(); ++i) visited[i] = normal(random);
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = normal(random);
    for (size_t i = 0; i < x.size(); ++i) x[i] = Bf16FromF32(normal(random));
    std::iota(visits.span().begin(), visits.span().end(), 0);
    std::shuffle(visits.span().begin(), visits.span().end(), random);
  }

  void Run(uint16_t* out) const {
    Launch(SumVisits{visited.data(), visits.data(), weights.data(), shape.rows, shape.per_token,
                     shape.columns, x.data(), out},
           nullptr);
    EXPECT_TRUE(simt::Finish());
    EXPECT_TRUE(visited.Intact() && weights.Intact() && visits.Intact() && x.Intact());
  }

  // What AddVisits and AddExpertSums of worker/runner/moe.cc do of one row.
  std::vector<uint16_t> Expected(int64_t row) const {
    const MatmulOps& ops = MatmulOpsFor(Isa::kReference);
    const int64_t columns = shape.columns;
    std::vector<float> sum(static_cast<size_t>(columns), 0.0f);
    for (int64_t i = row * shape.per_token; i < (row + 1) * shape.per_token; ++i) {
      ops.add_weighted(sum.data(), visited.data() + visits[static_cast<size_t>(i)] * columns,
                       weights[static_cast<size_t>(i)], columns);
    }
    std::vector<uint16_t> out(sum.size());
    ops.finish(sum.data(), columns, 1.0f, nullptr, nullptr, x.data() + row * columns, out.data());
    return out;
  }

  Shape shape;
  Unified<float> visited, weights;
  Unified<int32_t> visits;
  Unified<uint16_t> x;
};

TEST(CudaExperts, SumsOfEveryShape) {
  const FpEnv environment;
  for (const Shape& shape : {Shape{1, 1, 8}, Shape{7, 2, 96}, Shape{3, 4, 1037}, Shape{2, 32, 80},
                             Shape{5, 3, 2048}, Shape{9, 4, 5}}) {
    const Problem problem(shape);
    const Unified<uint16_t> out(problem.x.size());
    problem.Run(out.data());
    EXPECT_TRUE(out.Intact());
    for (int64_t row = 0; row < shape.rows; ++row) {
      const std::vector<uint16_t> expected = problem.Expected(row);
      for (size_t k = 0; k < expected.size(); ++k) {
        ASSERT_EQ(out[static_cast<size_t>(row * shape.columns) + k], expected[k])
            << row << " " << k;
      }
    }
    problem.Run(problem.x.data());  // in place
    for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(problem.x[i], out[i]) << i;
  }
}

TEST(CudaExperts, NanAndInfinityStay) {
  const Problem problem({2, 2, 16});
  problem.visited[3] = std::numeric_limits<float>::quiet_NaN();
  problem.visited[20] = std::numeric_limits<float>::infinity();
  const Unified<uint16_t> out(problem.x.size());
  problem.Run(out.data());
  const auto is_finite = [](uint16_t bits) { return (bits & 0x7f80) != 0x7f80; };
  EXPECT_EQ(std::count_if(out.span().begin(), out.span().end(), is_finite), 30);
}

TEST(CudaExperts, NoRowsIsNoWork) {
  Launch(SumVisits{.per_token = 2, .columns = 64}, nullptr);
  Launch(SumVisits{.rows = 3, .per_token = 2}, nullptr);
  EXPECT_TRUE(simt::Finish());
}

}  // namespace
}  // namespace octavo::cuda
