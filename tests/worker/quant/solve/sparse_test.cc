// SparseGPT's 2:4 patterns: against the restated recursion, valid in every combination, and kept
// where they were.

#include "tests/worker/quant/solve/solver_fixture.h"
#include "worker/quant/solve/mask.h"
#include "worker/quant/solve/solver.h"

namespace octavo {
namespace {

TEST_F(Solver, PrunesAsTheRecursionThatInvertsAfresh) {
  for (const int64_t channels : {4, 24, 40}) {
    const Hessian h = Of(CorrelatedTokens(6, 120, channels, 3), channels);
    const TestWeight weight = RandomWeight(3, 12, channels);
    const WeightRows rows = weight.Piece(0, 12);
    for (const ColumnOrder order : {ColumnOrder::kNatural, ColumnOrder::kActivationByFours}) {
      const HessianFactor factor = Factor(h, order);
      const Matrix damped = Damped(h, factor);
      const QuantizeRule rule = TestRule(v1::NUMERIC_FP8_E4M3, v1::PER_CHANNEL);
      const Solved joint = Solve(factor, rows, rule, Sparsity::kTwoOfFour);
      EXPECT_EQ(ExpectFollows(damped, factor, rows, CoderOfScales(rule, rows, joint.scales),
                              joint.codes, true, "joint"),
                12 - joint.report.nearest_rows);
      std::vector<std::byte> values(rows.bytes.size());
      const auto alone = PruneRows(SetupOf(factor), rows, values);
      ASSERT_TRUE(alone.ok());
      EXPECT_EQ(ExpectFollows(damped, factor, rows, CoderOfValues(rows), values, true, "alone"),
                12 - alone->nearest_rows);
    }
  }
}

// Rows in which every four have two zeros or more.
int64_t SparseRows(const Coder& coder, const std::vector<std::byte>& stored, int64_t rows,
                   int64_t columns) {
  int64_t sparse = 0;
  for (int64_t r = 0; r < rows; ++r) {
    bool all = true;
    for (int64_t c = 0; c < columns; c += 4) {
      int zeros = 0;
      for (int64_t i = 0; i < 4; ++i) {
        zeros += coder.Value(LoadStored(coder, stored, r * columns + c + i)) == 0 ? 1 : 0;
      }
      all &= zeros >= 2;
    }
    sparse += all ? 1 : 0;
  }
  return sparse;
}

TEST_F(Solver, TwoOfFourIsValidAloneAndJointly) {
  const int64_t channels = 200;
  const Hessian h = Of(CorrelatedTokens(11, 800, channels, 6), channels);
  const TestWeight weight = RandomWeight(8, 100, channels);
  const WeightRows rows = weight.Piece(0, 100);
  for (const ColumnOrder order : {ColumnOrder::kNatural, ColumnOrder::kActivationByFours}) {
    const HessianFactor factor = Factor(h, order);
    for (const auto type : kTypes) {
      for (const auto granularity : kGranularities) {
        const QuantizeRule rule = TestRule(type, granularity);
        const Solved got = Solve(factor, rows, rule, Sparsity::kTwoOfFour);
        const Coder coder = CoderOfScales(rule, rows, got.scales);
        EXPECT_EQ(SparseRows(coder, got.codes, 100, channels), 100);
        EXPECT_LT(got.report.error_after, 0.8 * got.report.error_before);
        EXPECT_NEAR(got.report.error_after / TotalError(ToMatrix(h), rows, coder, got.codes), 1,
                    1e-9);
        EXPECT_EQ(got.report.sparse_rows, 0);
      }
    }
    std::vector<std::byte> values(rows.bytes.size());
    const auto alone = PruneRows(SetupOf(factor), rows, values);
    ASSERT_TRUE(alone.ok()) << alone.status();
    EXPECT_EQ(SparseRows(CoderOfValues(rows), values, 100, channels), 100);
    EXPECT_LT(alone->error_after, 0.8 * alone->error_before);
    EXPECT_NEAR(alone->error_after / TotalError(ToMatrix(h), rows, CoderOfValues(rows), values), 1,
                1e-9);
  }
}

TEST_F(Solver, APatternThatIsThereStays) {
  const int64_t channels = 120;
  const Hessian h = Of(CorrelatedTokens(12, 500, channels, 5), channels);
  TestWeight weight = RandomWeight(9, 80, channels);
  for (int64_t r = 0; r < 80; ++r) {
    if (r % 5 == 4) continue;  // these stay dense
    for (int64_t c = 0; c < channels; c += 4) {
      weight.Set(r, c + (r + c / 4) % 4, c % 8 == 0 ? -0.0f : 0.0f);
      weight.Set(r, c + (r + c / 4 + 1 + r % 3) % 4, 0.0f);
      if (c == 8) weight.Set(r, c + (r + c / 4 + 1 + (r + 1) % 3) % 4, 0.0f);  // a third one
    }
  }
  const WeightRows rows = weight.Piece(0, 80);
  for (const ColumnOrder order : {ColumnOrder::kNatural, ColumnOrder::kActivation}) {
    const HessianFactor factor = Factor(h, order);
    for (const auto type : kTypes) {
      const QuantizeRule rule = TestRule(type, v1::PER_CHANNEL);
      const Solved got = Solve(factor, rows, rule);
      EXPECT_EQ(got.report.sparse_rows, 64);
      EXPECT_LT(got.report.error_after, got.report.error_before);
      int dense_zeros = 0;
      for (int64_t r = 0; r < 80; ++r) {
        for (int64_t c = 0; c < channels; ++c) {
          const std::byte code = got.codes[static_cast<size_t>(r * channels + c)];
          if (r % 5 != 4 && weight.At(r, c) == 0) {
            ASSERT_EQ(code, std::byte{0}) << r << " " << c;
          }
          if (r % 5 == 4 && code == std::byte{0}) ++dense_zeros;
        }
      }
      EXPECT_LT(dense_zeros, 100);
    }
  }
  // Asked for a pattern, rows that have it keep theirs, third zeros included.
  const HessianFactor factor = Factor(h);
  const Solved made =
      Solve(factor, rows, TestRule(v1::NUMERIC_INT8, v1::PER_CHANNEL), Sparsity::kTwoOfFour);
  EXPECT_EQ(made.report.sparse_rows, 64);
  for (int64_t r = 0; r < 80; ++r) {
    for (int64_t c = 0; c < channels; ++c) {
      if (weight.At(r, c) == 0) {
        ASSERT_EQ(made.codes[static_cast<size_t>(r * channels + c)], std::byte{0});
      }
    }
  }
}

TEST(Mask, DropsTheTwoSmallestAndTiesGoToTheLower) {
  const double rising[] = {1, 2, 3, 4};
  EXPECT_EQ(TwoSmallest(rising), 0b0011u);
  const double falling[] = {4, 3, 2, 1};
  EXPECT_EQ(TwoSmallest(falling), 0b1100u);
  const double equal[] = {1, 1, 1, 1};
  EXPECT_EQ(TwoSmallest(equal), 0b0011u);
  const double ties[] = {2, 1, 2, 2};
  EXPECT_EQ(TwoSmallest(ties), 0b0011u);
  const double last[] = {5, 0, 5, 0};
  EXPECT_EQ(TwoSmallest(last), 0b1010u);
}

}  // namespace
}  // namespace octavo
