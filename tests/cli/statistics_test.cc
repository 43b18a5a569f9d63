#include "cli/statistics.h"

#include "gtest/gtest.h"

namespace octavo {
namespace {

TEST(Statistics, MeansHaveTheirStandardError) {
  const MeanError figure = MeanOf(std::vector<double>{2, 4, 4, 4, 5, 5, 7, 9});
  EXPECT_DOUBLE_EQ(figure.mean, 5);
  // Squares about the mean: 32; 32 / 7 / 8.
  EXPECT_NEAR(figure.error.value(), 0.7559289460184544, 1e-15);
  const MeanError one = MeanOf(std::vector<double>{3});
  EXPECT_EQ(one.mean, 3);
  EXPECT_FALSE(one.error.has_value());
}

TEST(Statistics, PairsTakeWhatWindowsShareOut) {
  const std::vector<double> a = {1, 10, 100};
  const std::vector<double> b = {1.5, 10.5, 100.5};
  const MeanError difference = PairedDifference(a, b);
  EXPECT_DOUBLE_EQ(difference.mean, 0.5);
  EXPECT_NEAR(difference.error.value(), 0, 1e-12);
  EXPECT_DOUBLE_EQ(PairedDifference(b, a).mean, -0.5);
}

TEST(Statistics, QuantilesAreValuesThatOccur) {
  const std::vector<double> values = {5, 1, 4, 2, 3};
  EXPECT_EQ(Quantile(values, 0), 1);
  EXPECT_EQ(Quantile(values, 0.2), 1);
  EXPECT_EQ(Quantile(values, 0.21), 2);
  EXPECT_EQ(Quantile(values, 0.5), 3);
  EXPECT_EQ(Quantile(values, 0.99), 5);
  EXPECT_EQ(Quantile(values, 1), 5);
  EXPECT_EQ(Quantile({7}, 0.5), 7);
}

}  // namespace
}  // namespace octavo
