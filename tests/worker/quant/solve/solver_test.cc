// GPTQ against a restatement that inverts what is left of the Hessian afresh for every column, and
// against what has to hold for any input.

#include "worker/quant/solve/solver.h"

#include "core/base/error.h"
#include "tests/worker/quant/solve/solver_fixture.h"

namespace octavo {
namespace {

// What rounding to nearest gives.
Solved Nearest(const WeightRows& rows, const QuantizeRule& rule) {
  Solved out;
  out.codes.resize(CodeBytes(rows.rows, rows.columns));
  out.scales.resize(ScaleBytes(rule, rows.rows, rows.columns));
  out.report.piece =
      *(*MakeQuantizer(rule, BestIsa()))->Quantize(rows, nullptr, out.codes, out.scales);
  return out;
}

TEST_F(Solver, IdentityHessianGivesRoundingToNearest) {
  Matrix identity(150, std::vector<double>(150));
  for (size_t i = 0; i < 150; ++i) identity[i][i] = 1;
  const HessianFactor factor = Factor(HessianFrom(identity, &arena_));
  const TestWeight weight = RandomWeight(1, 140, 150);
  for (const auto type : kTypes) {
    for (const auto granularity : kGranularities) {
      for (const auto algorithm : {v1::ABSMAX, v1::MSE}) {
        QuantizeRule rule = TestRule(type, granularity, v1::ABSMAX, DType::kBF16);
        rule.algorithm = algorithm;
        const Solved want = Nearest(weight.Piece(0, 140), rule);
        const Solved got = Solve(factor, weight.Piece(0, 140), rule);
        EXPECT_TRUE(got.codes == want.codes && got.scales == want.scales);
        EXPECT_EQ(got.report.piece.SerializeAsString(), want.report.piece.SerializeAsString());
        EXPECT_NEAR(got.report.error_after / want.report.piece.squared_error(), 1, 1e-6);
        EXPECT_EQ(got.report.error_before, got.report.error_after);
        EXPECT_EQ(got.report.nearest_rows, 0);
      }
    }
  }
}

TEST_F(Solver, FollowsTheRecursionThatInvertsAfresh) {
  for (const int64_t channels : {4, 9, 24, 40}) {
    const Hessian h = Of(CorrelatedTokens(5, 120, channels, 3), channels);
    const TestWeight weight = RandomWeight(2, 12, channels);
    const WeightRows rows = weight.Piece(0, 12);
    for (const ColumnOrder order : {ColumnOrder::kNatural, ColumnOrder::kActivation}) {
      const HessianFactor factor = Factor(h, order);
      for (const auto type : kTypes) {
        const QuantizeRule rule = TestRule(type, v1::PER_CHANNEL);
        const Solved got = Solve(factor, rows, rule);
        const Coder coder = CoderOfScales(rule, rows, got.scales);
        const int64_t followed = ExpectFollows(Damped(h, factor), factor, rows, coder, got.codes,
                                               false, std::to_string(channels));
        EXPECT_EQ(followed, 12 - got.report.nearest_rows) << channels;
      }
    }
  }
}

// The recursion is greedy: of many rows over few channels some would have been better off without.
TEST_F(Solver, RowsThatRoundingToNearestServesBetterKeepIt) {
  const int64_t channels = 8;
  const Hessian h = Of(CorrelatedTokens(15, 200, channels, 1), channels);
  const Matrix plain = ToMatrix(h);
  const HessianFactor factor = Factor(h);
  const TestWeight weight = RandomWeight(13, 600, channels);
  const WeightRows rows = weight.Piece(0, 600);
  const QuantizeRule rule = TestRule(v1::NUMERIC_FP8_E4M3, v1::PER_CHANNEL);
  const Solved nearest = Nearest(rows, rule);
  const Solved got = Solve(factor, rows, rule);
  const Coder coder = CoderOfScales(rule, rows, got.scales);
  int64_t better = 0;
  for (int64_t r = 0; r < rows.rows; ++r) {
    const auto codes = Naive(Damped(h, factor), factor.order, rows, coder, r, false);
    std::vector<std::byte> solved = nearest.codes;
    for (int64_t c = 0; c < channels; ++c) {
      StoreStored(coder, codes[static_cast<size_t>(c)], solved, r * channels + c);
    }
    const double before = Quadratic(plain, RowError(rows, coder, nearest.codes, r));
    const double after = Quadratic(plain, RowError(rows, coder, solved, r));
    const bool keeps = after > before && solved != nearest.codes;
    better += keeps ? 1 : 0;
    const auto* want = (keeps ? nearest.codes : solved).data() + r * channels;
    ASSERT_TRUE(std::equal(want, want + channels, got.codes.data() + r * channels)) << r;
  }
  EXPECT_GT(better, 0);
  EXPECT_EQ(got.report.nearest_rows, better);
}

// llm-compressor 0.1: scales of 127.5, codes from -128, no row given back to rounding, and codes
// made again from solved weights that were rounded to BF16.
TEST_F(Solver, CompatibleCodesAreMadeAgainFromSolvedWeights) {
  const int64_t channels = 24;
  const Hessian h = Of(CorrelatedTokens(5, 120, channels, 3), channels);
  const HessianFactor factor = Factor(h);
  const TestWeight weight = RandomWeight(2, 150, channels);
  const WeightRows rows = weight.Piece(0, 150);
  QuantizeRule rule = TestRule(v1::NUMERIC_INT8, v1::PER_CHANNEL, v1::ABSMAX, DType::kBF16);
  rule.compat = v1::COMPAT_LLM_COMPRESSOR_0_1;
  const Solved got = Solve(factor, rows, rule);
  EXPECT_EQ(got.report.nearest_rows, 0);
  const Coder coder = CoderOfScales(rule, rows, got.scales);
  int moved = 0;
  int lowest = 0;
  for (int64_t r = 0; r < rows.rows; ++r) {
    float amax = 0;
    for (int64_t c = 0; c < channels; ++c) amax = std::max(amax, std::fabs(weight.At(r, c)));
    const float scale = F32FromBf16(Bf16FromF32(amax / 127.5f));
    ASSERT_EQ(coder.scales[static_cast<size_t>(r)], scale);
    const auto solved = Naive(Damped(h, factor), factor.order, rows, coder, r, false);
    for (int64_t c = 0; c < channels; ++c) {
      const auto code = static_cast<int8_t>(solved[static_cast<size_t>(c)]);
      const float kept = F32FromBf16(Bf16FromF32(static_cast<float>(code) * scale));
      const float quotient = F32FromBf16(Bf16FromF32(kept / scale));
      const float want = std::clamp(std::nearbyint(quotient), -128.0f, 127.0f);
      const auto found = static_cast<int8_t>(got.codes[static_cast<size_t>(r * channels + c)]);
      ASSERT_EQ(static_cast<float>(found), want) << r << " " << c;
      moved += found != code ? 1 : 0;
      lowest = std::min<int>(lowest, found);
    }
  }
  EXPECT_GT(moved, 0);
  EXPECT_EQ(lowest, -128);
}

TEST_F(Solver, ReportsTheErrorAndNeverExceedsRoundingToNearest) {
  const int64_t channels = 200;
  const Hessian h = Of(CorrelatedTokens(7, 900, channels, 6), channels);
  const Matrix plain = ToMatrix(h);
  const TestWeight weight = RandomWeight(4, 150, channels);
  const WeightRows rows = weight.Piece(0, 150);
  for (const ColumnOrder order : {ColumnOrder::kNatural, ColumnOrder::kActivation}) {
    const HessianFactor factor = Factor(h, order);
    for (const auto type : kTypes) {
      for (const auto granularity : kGranularities) {
        const QuantizeRule rule = TestRule(type, granularity);
        const Solved nearest = Nearest(rows, rule);
        const Solved got = Solve(factor, rows, rule);
        EXPECT_TRUE(got.scales == nearest.scales);
        const Coder coder = CoderOfScales(rule, rows, got.scales);
        double before = 0;
        double after = 0;
        for (int64_t r = 0; r < rows.rows; ++r) {
          const double row_before = Quadratic(plain, RowError(rows, coder, nearest.codes, r));
          const double row_after = Quadratic(plain, RowError(rows, coder, got.codes, r));
          EXPECT_LE(row_after, row_before * (1 + 1e-9)) << r;
          before += row_before;
          after += row_after;
        }
        EXPECT_NEAR(got.report.error_before / before, 1, 1e-9);
        EXPECT_NEAR(got.report.error_after / after, 1, 1e-9);
        EXPECT_LT(after, 0.7 * before);
        EXPECT_GT(got.report.piece.squared_error(), nearest.report.piece.squared_error());
        EXPECT_EQ(got.report.piece.squared_source(), nearest.report.piece.squared_source());
        EXPECT_EQ(got.report.piece.scale_max(), nearest.report.piece.scale_max());
      }
    }
  }
}

TEST_F(Solver, SameBytesForEveryInstructionSetThreadCountAndCut) {
  const int64_t channels = 260;
  const Hessian h = Of(CorrelatedTokens(8, 700, channels, 5), channels);
  const TestWeight weight = RandomWeight(5, 300, channels);
  for (const auto sparsity : {Sparsity::kKeep, Sparsity::kTwoOfFour}) {
    for (const auto granularity : kGranularities) {
      const QuantizeRule rule =
          TestRule(v1::NUMERIC_FP8_E4M3, granularity, v1::ABSMAX, DType::kBF16);
      ThreadPool one(1);
      const HessianFactor slow = *FactorHessian(h, {.order = ColumnOrder::kActivationByFours},
                                                Isa::kReference, &arena_, &one);
      isa_ = Isa::kReference;
      const Solved want = Solve(slow, weight.Piece(0, 300), rule, sparsity);
      for (const Isa isa : {Isa::kAvx2, Isa::kAvx512}) {
        if (!IsSupported(isa)) continue;
        isa_ = isa;
        const HessianFactor factor =
            *FactorHessian(h, {.order = ColumnOrder::kActivationByFours}, isa, &arena_, &pool_);
        EXPECT_TRUE(Solve(factor, weight.Piece(0, 300), rule, sparsity) == want) << Name(isa);
        v1::TieStat joint;
        joint.set_amax_bits(*(*MakeQuantizer(rule, isa))->Amax(weight.Piece(0, 300)));
        const Solved head = Solve(factor, weight.Piece(0, 128), rule, sparsity, &joint);
        const Solved tail = Solve(factor, weight.Piece(128, 300), rule, sparsity, &joint);
        std::vector<std::byte> codes = head.codes;
        codes.insert(codes.end(), tail.codes.begin(), tail.codes.end());
        EXPECT_TRUE(codes == want.codes) << Name(isa);
      }
    }
  }
}

TEST_F(Solver, DeadChannelsGetZeroCodesAndChangeNoOther) {
  const int64_t channels = 70;
  auto x = CorrelatedTokens(9, 300, channels, 4);
  for (size_t t = 0; t < 300; ++t) x[t * 70 + 3] = x[t * 70 + 69] = 0;
  const HessianFactor factor = Factor(Of(x, channels));
  TestWeight weight = RandomWeight(6, 64, channels);
  const QuantizeRule rule = TestRule(v1::NUMERIC_INT8, v1::PER_CHANNEL);
  for (int64_t r = 0; r < 64; ++r) weight.Set(r, 0, 0.3f);  // the largest: scales stay
  const Solved first = Solve(factor, weight.Piece(0, 64), rule);
  for (int64_t r = 0; r < 64; ++r) {
    EXPECT_EQ(first.codes[static_cast<size_t>(r * 70 + 3)], std::byte{0});
    EXPECT_EQ(first.codes[static_cast<size_t>(r * 70 + 69)], std::byte{0});
    weight.Set(r, 3, 0.1f);
    weight.Set(r, 69, -0.2f);
  }
  const Solved second = Solve(factor, weight.Piece(0, 64), rule);
  EXPECT_TRUE(first.codes == second.codes);
  EXPECT_EQ(first.report.error_before, second.report.error_before);
  EXPECT_EQ(first.report.error_after, second.report.error_after);
}

TEST_F(Solver, ActivationOrderSolvesWhatMattersFirst) {
  // With most of the weight on a few late channels, order helps; groups keep their own scales.
  const int64_t channels = 256;
  auto x = CorrelatedTokens(10, 600, channels, 6);
  for (size_t i = 0; i < x.size(); ++i) {
    if (i % 256 >= 240) x[i] = Bf16FromF32(F32FromBf16(x[i]) * 20);
  }
  const Hessian h = Of(x, channels);
  const TestWeight weight = RandomWeight(7, 128, channels);
  const QuantizeRule rule = TestRule(v1::NUMERIC_INT8, v1::PER_BLOCK);
  const Solved natural = Solve(Factor(h), weight.Piece(0, 128), rule);
  const Solved ordered = Solve(Factor(h, ColumnOrder::kActivation), weight.Piece(0, 128), rule);
  EXPECT_TRUE(natural.scales == ordered.scales);
  EXPECT_LT(ordered.report.error_after, natural.report.error_after);
}

TEST_F(Solver, ZeroGroupsKeepScaleOneAndCodeZero) {
  const int64_t channels = 256;
  const HessianFactor factor = Factor(Of(CorrelatedTokens(13, 500, channels, 5), channels));
  TestWeight weight = RandomWeight(10, 128, channels);
  for (int64_t r = 0; r < 128; ++r) {
    for (int64_t c = 128; c < 256; ++c) weight.Set(r, c, 0);
  }
  const QuantizeRule rule = TestRule(v1::NUMERIC_FP8_E4M3, v1::PER_BLOCK);
  const Solved got = Solve(factor, weight.Piece(0, 128), rule);
  EXPECT_EQ(got.report.piece.zero_groups(), 1u);
  for (int64_t r = 0; r < 128; ++r) {
    for (int64_t c = 128; c < 256; ++c) {
      ASSERT_EQ(got.codes[static_cast<size_t>(r * channels + c)], std::byte{0});
    }
  }
}

TEST_F(Solver, SaysWhatItCannotDo) {
  const HessianFactor factor =
      Factor(Of(CorrelatedTokens(14, 60, 10, 2), 10), ColumnOrder::kActivation);
  TestWeight weight = RandomWeight(11, 4, 10);
  std::vector<std::byte> codes(40), scales(16), values(80);
  QuantizeRule rule = TestRule(v1::NUMERIC_INT8, v1::PER_CHANNEL);
  const auto solve = [&](const HessianFactor& with, Sparsity sparsity) {
    return ReasonOf(
        SolveRows(SetupOf(with), weight.Piece(0, 4), rule, nullptr, sparsity, codes, scales)
            .status());
  };
  EXPECT_EQ(solve(factor, Sparsity::kTwoOfFour), Reason::kUnsupported);  // ten columns
  const HessianFactor twelve =
      Factor(Of(CorrelatedTokens(14, 60, 12, 2), 12), ColumnOrder::kActivation);
  TestWeight wide = RandomWeight(12, 4, 12);
  std::vector<std::byte> wide_values(96);
  EXPECT_EQ(ReasonOf(PruneRows(SetupOf(twelve), wide.Piece(0, 4), wide_values).status()),
            Reason::kUnsupported);  // order of single channels
  rule.compat = v1::COMPAT_AUTOFP8;
  EXPECT_EQ(solve(factor, Sparsity::kKeep), Reason::kUnsupported);
  rule.compat = v1::COMPAT_NONE;
  weight.values[13] = 0x7f80;
  EXPECT_EQ(solve(factor, Sparsity::kKeep), Reason::kNonFinite);
  wide.values[1] = 0x7fc0;
  const HessianFactor natural = Factor(Of(CorrelatedTokens(14, 60, 12, 2), 12));
  EXPECT_EQ(ReasonOf(PruneRows(SetupOf(natural), wide.Piece(0, 4), wide_values).status()),
            Reason::kNonFinite);
}

}  // namespace
}  // namespace octavo
