// Hessians of experts with few tokens: against F64, and against what other tokens of theirs cost.

#include "worker/quant/solve/shrink.h"

#include <algorithm>

#include "core/tensor/bare/fp_env.h"
#include "tests/worker/quant/solve/solver_fixture.h"

namespace octavo {
namespace {

void ShrinkAll(const Shrinkage& shrinkage, const Hessian& mean, Hessian* own) {
  const FpEnv env;
  for (int64_t i = 0; i < own->channels; ++i) {
    ShrinkRow(shrinkage, mean.Row(i) + i, own->channels - i, own->Row(i) + i);
  }
}

TEST(Shrinkage, GoesByTokensOverFourTimesTheChannels) {
  EXPECT_EQ(ShrinkageOf(64, 256, 256).own, 1);
  EXPECT_EQ(ShrinkageOf(64, 256, 256).mean, 0);
  EXPECT_EQ(ShrinkageOf(64, 1 << 20, 256).share(), 0);
  const Shrinkage half = ShrinkageOf(64, 128, 200);
  EXPECT_EQ(half.own, 0.5);
  EXPECT_EQ(half.share(), 0.5);
  EXPECT_EQ(half.mean, 0.5 * 128 / 200);
  EXPECT_EQ(ExpertLeastTokens(64), 16);
  EXPECT_EQ(ShrinkageOf(64, 16, 200).share(), 1 - 16.0 / 256);
}

// T * (lambda * H / T + (1 - lambda) * M / T_M), summed from the tokens in F64.
TEST_F(Solver, ShrunkHessiansAreTheMeanOfBothPerToken) {
  const int64_t channels = 90;
  for (const int64_t tokens : {23, 90, 200, 359}) {
    const auto x = CorrelatedTokens(1, tokens, channels, 3);
    const auto all = CorrelatedTokens(2, 301, channels, 5);
    Hessian got = Of(x, channels);
    ShrinkAll(ShrinkageOf(channels, tokens, 301), Of(all, channels), &got);
    EXPECT_EQ(got.tokens, tokens);
    const double lambda = static_cast<double>(tokens) / (4.0 * static_cast<double>(channels));
    const auto moment = [&](const std::vector<uint16_t>& from, int64_t i, int64_t j) {
      double sum = 0;
      for (size_t t = 0; t < from.size(); t += static_cast<size_t>(channels)) {
        sum += static_cast<double>(F32FromBf16(from[t + static_cast<size_t>(i)])) *
               static_cast<double>(F32FromBf16(from[t + static_cast<size_t>(j)]));
      }
      return sum / (static_cast<double>(from.size()) / static_cast<double>(channels));
    };
    for (int64_t i = 0; i < channels; ++i) {
      const double size = std::max(moment(x, i, i), moment(all, i, i));
      for (int64_t j = 0; j < channels; ++j) {
        const double want = static_cast<double>(tokens) *
                            (lambda * moment(x, i, j) + (1 - lambda) * moment(all, i, j));
        const double other = std::max(moment(x, j, j), moment(all, j, j));
        ASSERT_NEAR(got.At(i, j), want,
                    2e-6 * static_cast<double>(tokens) * std::sqrt(size * other))
            << tokens << ": " << i << " " << j;
      }
    }
  }
}

// Experts whose inputs have the same causes, of falling strength, some more and some less so:
// [expert] -> tokens.
std::vector<std::vector<uint16_t>> TokensOfExperts(int64_t channels,
                                                   const std::vector<int64_t>& tokens) {
  std::mt19937_64 random(11);
  std::normal_distribution<double> normal;
  Matrix causes;
  std::vector<double> size;
  for (int64_t i = 0; i < channels; ++i) {
    std::vector<double>& cause = causes.emplace_back();
    for (int64_t c = 0; c < channels; ++c) cause.push_back(normal(random));
    size.push_back(std::exp(0.7 * normal(random)));
  }
  std::vector<std::vector<uint16_t>> out;
  for (const int64_t count : tokens) {
    std::vector<double> strength;
    for (size_t i = 0; i < causes.size(); ++i) {
      strength.push_back(std::exp(0.5 * normal(random)) / std::sqrt(static_cast<double>(i + 1)));
    }
    std::vector<uint16_t>& own = out.emplace_back();
    for (int64_t t = 0; t < count; ++t) {
      std::vector<double> row(causes.size());
      for (size_t i = 0; i < causes.size(); ++i) {
        const double amount = strength[i] * normal(random);
        for (size_t c = 0; c < row.size(); ++c) row[c] += amount * causes[i][c];
      }
      for (size_t c = 0; c < row.size(); ++c) {
        own.push_back(Bf16FromF32(static_cast<float>(row[c] * size[c])));
      }
    }
  }
  return out;
}

// Squared output error per token of codes, on these tokens.
double ErrorOn(const std::vector<uint16_t>& tokens, const TestWeight& weight,
               const Solved& solved) {
  double sum = 0;
  const auto columns = static_cast<size_t>(weight.columns);
  for (int64_t row = 0; row < weight.rows; ++row) {
    float scale = 0;
    std::memcpy(&scale, solved.scales.data() + row * 4, 4);
    std::vector<double> change;
    for (int64_t c = 0; c < weight.columns; ++c) {
      const auto code = static_cast<int8_t>(
          solved.codes[static_cast<size_t>(row) * columns + static_cast<size_t>(c)]);
      change.push_back(static_cast<double>(code) * static_cast<double>(scale) -
                       static_cast<double>(weight.At(row, c)));
    }
    for (size_t t = 0; t < tokens.size(); t += columns) {
      double error = 0;
      for (size_t c = 0; c < columns; ++c) {
        error += static_cast<double>(F32FromBf16(tokens[t + c])) * change[c];
      }
      sum += error * error;
    }
  }
  return sum / static_cast<double>(tokens.size() / columns);
}

TEST_F(Solver, ShrunkSolvesErrLessOnTokensThatTheyDidNotSee) {
  const int64_t channels = 96;
  const TestWeight weight = RandomWeight(5, 48, channels);
  const QuantizeRule rule = TestRule(v1::NUMERIC_INT8, v1::PER_CHANNEL);
  for (const int64_t seen : {24, 40, 96, 192}) {
    std::vector<int64_t> counts(8, 400);
    counts[0] = seen + 4000;
    auto tokens = TokensOfExperts(channels, counts);
    const std::vector<uint16_t> held_out(tokens[0].begin() + seen * channels, tokens[0].end());
    tokens[0].resize(static_cast<size_t>(seen * channels));
    // Every eighth row of all experts, as a stride takes them.
    std::vector<uint16_t> all;
    int64_t row = 0;
    for (const auto& own : tokens) {
      for (size_t t = 0; t < own.size(); t += static_cast<size_t>(channels)) {
        if (row++ % 8 != 0) continue;
        all.insert(all.end(), own.begin() + static_cast<int64_t>(t),
                   own.begin() + static_cast<int64_t>(t) + channels);
      }
    }
    const Hessian mean = Of(all, channels);
    Hessian hessian = Of(tokens[0], channels);
    const WeightRows rows = weight.Piece(0, weight.rows);
    const double alone =
        ErrorOn(held_out, weight, Solve(Factor(hessian, ColumnOrder::kActivation), rows, rule));
    ShrinkAll(ShrinkageOf(channels, seen, mean.tokens), mean, &hessian);
    const double shrunk =
        ErrorOn(held_out, weight, Solve(Factor(hessian, ColumnOrder::kActivation), rows, rule));
    std::printf("%3ld tokens of %ld channels: held-out error %.4f of the unshrunk\n",
                static_cast<long>(seen), static_cast<long>(channels), shrunk / alone);
    EXPECT_LT(shrunk, (seen <= channels ? 0.9 : 1.0) * alone) << seen;
  }
}

}  // namespace
}  // namespace octavo
