// KL divergence against the textbook formula in F64, and the same bits on every instruction set.

#include "kernels/divergence.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

std::vector<float> RandomRow(std::mt19937* random, size_t count, float spread) {
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> row(count);
  for (float& x : row) x = normal(*random);
  return row;
}

double LogSumExp(const std::vector<float>& row) {
  const double max = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const float x : row) sum += std::exp(x - max);
  return max + std::log(sum);
}

double Expected(const std::vector<float>& a, const std::vector<float>& b) {
  const double a_log = LogSumExp(a);
  const double b_log = LogSumExp(b);
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += std::exp(a[i] - a_log) * ((a[i] - a_log) - (static_cast<double>(b[i]) - b_log));
  }
  return sum;
}

double Divergence(Isa isa, const std::vector<float>& a, const std::vector<float>& b) {
  const FpEnv env;
  const float a_max = *std::max_element(a.begin(), a.end());
  const float b_max = *std::max_element(b.begin(), b.end());
  const DivergenceSums sums =
      DivergenceOpsFor(isa).sums(a.data(), a_max, b.data(), b_max, std::ssize(a));
  return DivergenceOf(sums, a_max, b_max);
}

TEST(Divergence, IsThatOfTheFormulaOnEveryInstructionSet) {
  std::mt19937 random(3);
  for (const size_t count : {1u, 2u, 15u, 16u, 17u, 33u, 1000u, 49152u}) {
    for (const float spread : {0.1f, 3.0f, 40.0f}) {
      for (const float gap : {0.001f, 0.1f, 5.0f}) {
        const std::vector<float> a = RandomRow(&random, count, spread);
        std::vector<float> b = RandomRow(&random, count, gap);
        for (size_t i = 0; i < count; ++i) b[i] += a[i];
        const double reference = Divergence(Isa::kReference, a, b);
        const double expected = Expected(a, b);
        EXPECT_NEAR(reference, expected, 2e-7 + 2e-7 * std::fabs(expected))
            << count << " logits, spread " << spread << ", gap " << gap;
        for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
          if (!IsSupported(isa)) continue;
          EXPECT_EQ(std::bit_cast<uint64_t>(Divergence(isa, a, b)),
                    std::bit_cast<uint64_t>(reference))
              << count;
        }
      }
    }
  }
}

TEST(Divergence, EqualRowsAreNotApart) {
  std::mt19937 random(4);
  const std::vector<float> row = RandomRow(&random, 5000, 4.0f);
  EXPECT_EQ(Divergence(BestIsa(), row, row), 0.0);
}

TEST(Divergence, HasADirection) {
  const std::vector<float> sure = {0.0f, -20.0f};
  const std::vector<float> even = {0.0f, 0.0f};
  EXPECT_NEAR(Divergence(BestIsa(), sure, even), std::log(2.0), 1e-6);
  EXPECT_NEAR(Divergence(BestIsa(), even, sure), 10.0 - std::log(2.0), 1e-6);
}

}  // namespace
}  // namespace octavo
