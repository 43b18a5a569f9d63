// Which experts are chosen, in which order, with what weight.

#include "worker/runner/expert_route.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;

std::vector<int32_t> Choose(const std::vector<float>& p, int64_t count) {
  std::vector<int32_t> chosen(static_cast<size_t>(count));
  ChooseLargest(p.data(), static_cast<int64_t>(p.size()), count, chosen.data());
  return chosen;
}

TEST(ChooseLargest, TiesGoToTheLowerIndex) {
  EXPECT_THAT(Choose({0.1f, 0.4f, 0.1f, 0.4f}, 1), ElementsAre(1));
  EXPECT_THAT(Choose({0.1f, 0.4f, 0.1f, 0.4f}, 2), ElementsAre(1, 3));
  EXPECT_THAT(Choose({0.1f, 0.4f, 0.1f, 0.4f}, 3), ElementsAre(0, 1, 3));
  EXPECT_THAT(Choose({0.25f, 0.25f, 0.25f, 0.25f}, 2), ElementsAre(0, 1));
  EXPECT_THAT(Choose({0.0f, 0.0f, 1.0f}, 2), ElementsAre(0, 2));
  EXPECT_THAT(Choose({1.0f}, 1), ElementsAre(0));
}

TEST(ChooseLargest, AgreesWithAStableSort) {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    const auto experts = static_cast<int64_t>(1 + random() % 9);
    const auto count = static_cast<int64_t>(1 + random() % static_cast<uint32_t>(experts));
    std::vector<float> p;
    for (int64_t e = 0; e < experts; ++e) p.push_back(static_cast<float>(random() % 4));
    std::vector<int32_t> order;
    for (int32_t e = 0; e < experts; ++e) order.push_back(e);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return p[static_cast<size_t>(a)] > p[static_cast<size_t>(b)];
    });
    order.resize(static_cast<size_t>(count));
    std::sort(order.begin(), order.end());
    EXPECT_EQ(Choose(p, count), order);
  }
}

TEST(RouteRows, NumbersVisitsExpertByExpert) {
  const SoftmaxOps& softmax = SoftmaxOpsFor(Isa::kReference);
  // Rows choose {1, 2}, {0, 2} and {1, 2}.
  const std::vector<float> logits = {0, 2, 1, 1, -9, 2, 0, 1, 3};
  std::vector<float> scratch = logits;
  const ExpertRoute route = RouteRows(softmax, scratch.data(), 3, 3, 2, true);
  EXPECT_THAT(route.begin, ElementsAre(0, 1, 3, 6));
  EXPECT_THAT(route.rows, ElementsAre(1, 0, 2, 0, 1, 2));
  EXPECT_THAT(route.visits, ElementsAre(1, 3, 0, 4, 2, 5));
  EXPECT_NEAR(route.weights[0], 0.7310586, 1e-6);  // 1 / (1 + e^-1)
  EXPECT_NEAR(route.weights[1], 0.2689414, 1e-6);
  EXPECT_NEAR(route.weights[5], 0.8807971, 1e-6);

  scratch = logits;
  const ExpertRoute plain = RouteRows(softmax, scratch.data(), 3, 3, 2, false);
  EXPECT_EQ(plain.rows, route.rows);
  EXPECT_NEAR(plain.weights[0], 0.6652410, 1e-6);  // of all three experts
}

}  // namespace
}  // namespace octavo
