// Routes on a GPU against those of the CPU's runner, bit for bit. Runs on the host twin of simt.h
// everywhere and, in octavo-gpu-check, on a GPU.

#include "kernels/cuda/router/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"
#include "kernels/softmax.h"
#include "worker/runner/expert_route.h"

namespace octavo::cuda {
namespace {

using simt::Unified;

struct Shape {
  int64_t rows, experts, per_token;
};
constexpr Shape kShapes[] = {{1, 1, 1},    {1, 8, 2},   {3, 8, 8},    {5, 16, 4},
                             {64, 8, 2},   {9, 60, 4},  {129, 17, 3}, {30, 33, 32},
                             {300, 16, 4}, {257, 2, 1}, {6, 256, 8}};

std::string Describe(const Shape& shape) {
  return std::to_string(shape.rows) + " rows, " + std::to_string(shape.per_token) + " of " +
         std::to_string(shape.experts) + " experts";
}

// Normal logits; every other row has few different ones, so that many tie.
std::vector<float> Logits(const Shape& shape, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  std::vector<float> logits(static_cast<size_t>(shape.rows * shape.experts));
  for (size_t i = 0; i < logits.size(); ++i) {
    const bool ties = i / static_cast<size_t>(shape.experts) % 2 == 1;
    logits[i] = ties ? static_cast<float>(random() % 3) - 1.0f : normal(random);
  }
  return logits;
}

// A route as the kernels make it.
struct Route {
  explicit Route(const Shape& shape, const std::vector<float>& x, bool normalized)
      : visit_count(static_cast<size_t>(shape.rows * shape.per_token)),
        logits(std::span<const float>(x)),
        weights(visit_count),
        chosen(visit_count),
        visits(visit_count),
        visitors(visit_count),
        begin(static_cast<size_t>(shape.experts) + 1),
        bad(1) {
    bad[0] = 0;
    Launch(RouteTokens{logits.data(), shape.rows, shape.experts, shape.per_token, normalized,
                       chosen.data(), weights.data(), visits.data(), begin.data(), visitors.data(),
                       bad.data()},
           nullptr);
    EXPECT_TRUE(simt::Finish());
    EXPECT_TRUE(logits.Intact() && weights.Intact() && chosen.Intact() && visits.Intact() &&
                visitors.Intact() && begin.Intact() && bad.Intact());
  }

  size_t visit_count;
  Unified<float> logits, weights;
  Unified<int32_t> chosen, visits, visitors, begin;
  Unified<uint32_t> bad;
};

void ExpectIsTheRunners(const Shape& shape, const std::vector<float>& logits, bool normalized) {
  const Route route(shape, logits, normalized);
  EXPECT_EQ(route.bad[0], 0u);
  std::vector<float> p = logits;
  const ExpertRoute expected = RouteRows(SoftmaxOpsFor(Isa::kReference), p.data(), shape.rows,
                                         shape.experts, shape.per_token, normalized);
  for (size_t i = 0; i < p.size(); ++i) ASSERT_EQ(route.logits[i], p[i]) << i;
  for (size_t e = 0; e < expected.begin.size(); ++e) {
    ASSERT_EQ(route.begin[e], expected.begin[e]) << e;
  }
  for (size_t i = 0; i < route.visit_count; ++i) {
    ASSERT_EQ(route.weights[i], expected.weights[i]) << i;
    ASSERT_EQ(route.visits[i], expected.visits[i]) << i;
    ASSERT_EQ(route.visitors[i], expected.rows[i]) << i;
    const auto visit = static_cast<int32_t>(expected.visits[i]);
    const auto expert = static_cast<size_t>(route.chosen[i]);
    ASSERT_LT(expert, static_cast<size_t>(shape.experts)) << i;
    ASSERT_TRUE(route.begin[expert] <= visit && visit < route.begin[expert + 1]) << i;
  }
}

TEST(CudaRouter, RoutesOfEveryShape) {
  const FpEnv environment;
  uint32_t seed = 1;
  for (const Shape& shape : kShapes) {
    for (const bool normalized : {false, true}) {
      if (shape.experts > 100 && !normalized) continue;  // a block per expert takes its time
      SCOPED_TRACE(Describe(shape));
      ExpectIsTheRunners(shape, Logits(shape, seed++), normalized);
    }
  }
}

// Equal logits, and such that all but a few p are zero.
TEST(CudaRouter, TiesAreTheLowerExperts) {
  const FpEnv environment;
  const Shape shape{6, 40, 4};
  std::vector<float> logits(6 * 40, -3.5f);
  for (size_t e = 0; e < 40; ++e) logits[40 + e] = e == 39 ? 300.0f : e == 7 ? 299.5f : -200.0f;
  for (size_t e = 0; e < 40; ++e) logits[80 + e] = e % 2 == 0 ? 0.0f : -0.0f;
  for (size_t e = 0; e < 40; ++e) logits[120 + e] = static_cast<float>(e);
  for (size_t e = 0; e < 40; ++e) logits[160 + e] = e < 20 ? -3e38f : 3e38f;
  ExpectIsTheRunners(shape, logits, true);
  const Route route(shape, logits, true);
  const int32_t expected[] = {0, 1, 2, 3, 0, 1, 7, 39};
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(route.chosen[i], expected[i]) << i;
}

TEST(CudaRouter, ARowDoesNotDependOnTheOthers) {
  const FpEnv environment;
  const Shape shape{50, 16, 4};
  const std::vector<float> logits = Logits(shape, 40);
  const Route all(shape, logits, true);
  for (size_t row = 0; row < 50; row += 7) {
    const Route alone({1, 16, 4},
                      {logits.begin() + static_cast<ptrdiff_t>(row) * 16,
                       logits.begin() + static_cast<ptrdiff_t>(row + 1) * 16},
                      true);
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(alone.chosen[i], all.chosen[row * 4 + i]);
      EXPECT_EQ(alone.weights[i], all.weights[row * 4 + i]);
    }
  }
}

// Such a row is told; its visits stay within bounds and the other rows keep their route.
TEST(CudaRouter, LogitsThatAreNoNumbers) {
  const FpEnv environment;
  const Shape shape{12, 40, 4};
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const std::vector<float> good = Logits(shape, 50);
  const Route expected(shape, good, true);
  for (const float bad : {kInf, -kInf, std::nanf("1"), -std::nanf("1")}) {
    for (const size_t expert : {31, 39}) {
      std::vector<float> logits = good;
      logits[5 * 40 + expert] = bad;
      if (expert == 31) std::fill_n(logits.begin() + 5 * 40, 40, bad);
      const Route route(shape, logits, true);
      EXPECT_EQ(route.bad[0], 6u);
      std::vector<int32_t> visits(route.visits.data(), route.visits.data() + route.visit_count);
      std::sort(visits.begin(), visits.end());
      for (size_t i = 0; i < visits.size(); ++i) {
        ASSERT_EQ(visits[i], static_cast<int32_t>(i));
        ASSERT_TRUE(route.chosen[i] >= 0 && route.chosen[i] < 40) << i;
        if (i % 4 > 0) {
          ASSERT_LT(route.chosen[i - 1], route.chosen[i]) << i;
        }
        if (i / 4 == 5) continue;
        ASSERT_EQ(route.chosen[i], expected.chosen[i]) << i;
        ASSERT_EQ(route.weights[i], expected.weights[i]) << i;
      }
    }
  }
}

TEST(CudaRouter, NoRowsAreNoVisits) {
  const Shape shape{0, 5, 2};
  const Route route(shape, {}, true);
  for (size_t e = 0; e <= 5; ++e) EXPECT_EQ(route.begin[e], 0) << e;
}

}  // namespace
}  // namespace octavo::cuda
