// Which tokens experts see beside those that the router sends them.

#include "worker/runner/expert_coverage.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;

TEST(CoverExperts, TakesTheLikeliestOfEachSample) {
  // Rows 0 to 2 and 3 to 4 are samples. Row 1 goes to expert 1, the others to expert 0.
  std::vector<float> p = {0.9f, 0.1f, 0.4f, 0.6f, 0.7f, 0.3f, 0.8f, 0.2f, 0.8f, 0.2f};
  ExpertRoute route;
  route.begin = {0, 4, 5};
  route.routed_end = {4, 5};
  route.rows = {0, 2, 3, 4, 1};
  route.visits = {0, 4, 1, 2, 3};
  const std::vector<int64_t> samples = {3, 2};
  ExpertRoute two = route;
  CoverExperts(p.data(), samples, 2, &two);
  EXPECT_THAT(two.begin, ElementsAre(0, 4, 8));  // expert 0 has two of each already
  EXPECT_THAT(two.routed_end, ElementsAre(4, 5));
  EXPECT_THAT(two.rows, ElementsAre(0, 2, 3, 4, 1, 2, 3, 4));  // row 2 before row 0: 0.3 > 0.1
  EXPECT_THAT(two.visits, ElementsAre(0, 4, 1, 2, 3));
  ExpertRoute one = route;
  CoverExperts(p.data(), samples, 1, &one);
  EXPECT_THAT(one.rows, ElementsAre(0, 2, 3, 4, 1, 3));  // a tie: the lower row
  ExpertRoute all = route;
  CoverExperts(p.data(), samples, 1 << 30, &all);
  EXPECT_THAT(all.begin, ElementsAre(0, 5, 10));
  EXPECT_THAT(all.rows, ElementsAre(0, 2, 3, 4, 1, 1, 0, 2, 3, 4));
  EXPECT_THAT(all.visits,
              ElementsAre(0, 5, 1, 2, 3));  // the first expert's visits moved the second's
}

TEST(CoverExperts, FillsEveryQuotaAndMovesNoRoutedVisit) {
  std::mt19937 random(9);
  const SoftmaxOps& softmax = SoftmaxOpsFor(Isa::kReference);
  for (int round = 0; round < 100; ++round) {
    const auto experts = static_cast<int64_t>(2 + random() % 6);
    const auto per_row = static_cast<int64_t>(1 + random() % static_cast<uint32_t>(experts));
    std::vector<int64_t> samples;
    for (uint32_t i = 0; i < 1 + random() % 4; ++i) samples.push_back(1 + random() % 9);
    const int64_t rows = std::accumulate(samples.begin(), samples.end(), int64_t{0});
    std::vector<float> p(static_cast<size_t>(rows * experts));
    for (float& logit : p) logit = static_cast<float>(random() % 7);  // with ties
    const ExpertRoute before = RouteRows(softmax, p.data(), rows, experts, per_row, true);
    ExpertRoute after = before;
    const auto quota = static_cast<int64_t>(1 + random() % 12);
    CoverExperts(p.data(), samples, quota, &after);
    EXPECT_EQ(after.weights, before.weights);
    for (size_t i = 0; i < before.visits.size(); ++i) {
      EXPECT_EQ(after.rows[static_cast<size_t>(after.visits[i])],
                before.rows[static_cast<size_t>(before.visits[i])]);
    }
    for (size_t e = 0; e < static_cast<size_t>(experts); ++e) {
      const auto seen = std::set<int64_t>(after.rows.begin() + after.begin[e],
                                          after.rows.begin() + after.begin[e + 1]);
      EXPECT_EQ(static_cast<int64_t>(seen.size()), after.begin[e + 1] - after.begin[e]);
      EXPECT_EQ(after.routed_end[e] - after.begin[e], before.begin[e + 1] - before.begin[e]);
      int64_t first = 0;
      for (const int64_t length : samples) {
        const auto of_sample =
            std::distance(seen.lower_bound(first), seen.lower_bound(first + length));
        const auto routed = std::count_if(
            before.rows.begin() + before.begin[e], before.rows.begin() + before.begin[e + 1],
            [&](int64_t row) { return row >= first && row < first + length; });
        EXPECT_EQ(of_sample, std::max<int64_t>(routed, std::min(quota, length)));
        first += length;
      }
    }
  }
}

}  // namespace
}  // namespace octavo
