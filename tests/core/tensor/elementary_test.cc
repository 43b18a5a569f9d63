// Elementary functions against F64 libm, Tree and units against their definitions, Philox against
// the published known-answer vectors.

#include "core/tensor/bare/elementary.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/philox.h"
#include "core/tensor/bare/tree.h"
#include "core/tensor/bare/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

// Distance from the true value in units of the last place of the F32 next to it; infinite for what
// is no finite number, which a maximum would pass over.
double UlpError(float got, double want) {
  if (!std::isfinite(got)) return std::numeric_limits<double>::infinity();
  const double magnitude = std::max(std::abs(want), 0x1p-126);
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  return std::abs(static_cast<double>(got) - want) / std::ldexp(1.0, exponent - 24);
}

TEST(Exp, IsWithinOneUlp) {
  const FpEnv env;
  double worst = 0;
  for (int64_t i = 0; i <= 4'000'000; ++i) {
    const float x = kExpMin + static_cast<float>(static_cast<double>(kExpMax - kExpMin) * i / 4e6);
    if (x > kExpMax) continue;
    worst = std::max(worst, UlpError(Exp(x), std::exp(static_cast<double>(x))));
  }
  for (float x = 1e-30f; x < 1.0f; x *= 1.001f) {
    worst = std::max(worst, UlpError(Exp(x), std::exp(static_cast<double>(x))));
    worst = std::max(worst, UlpError(Exp(-x), std::exp(-static_cast<double>(x))));
  }
  EXPECT_LT(worst, 1.0);
}

TEST(Exp, Edges) {
  const FpEnv env;
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-0.0f), 1.0f);
  EXPECT_EQ(Exp(-inf), 0.0f);
  EXPECT_EQ(Exp(-88.0f), 0.0f);
  EXPECT_EQ(Exp(inf), inf);
  EXPECT_EQ(Exp(89.0f), inf);
  EXPECT_TRUE(std::isfinite(Exp(kExpMax)));
  EXPECT_GE(Exp(kExpMin), 0x1p-126f);
  EXPECT_TRUE(std::isnan(Exp(std::nanf(""))));
}

TEST(Log, IsNearlyCorrectlyRounded) {
  const FpEnv env;
  double worst = 0;
  for (uint32_t bits = kF32MinNormalBits; bits < kF32InfBits; bits += 1013) {
    const float x = FloatFromBits(bits);
    const double want = std::log(static_cast<double>(x));
    if (std::abs(want) < 0x1p-100) continue;
    worst = std::max(worst, UlpError(Log(x), want));
  }
  EXPECT_LT(worst, 0.51);
  EXPECT_EQ(Log(1.0f), 0.0f);
  EXPECT_EQ(Log(0.0f), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(Log(-1.0f)));
}

TEST(Rsqrt, IsWithinItsBound) {
  const FpEnv env;
  double worst = 0;
  for (uint32_t bits = kF32MinNormalBits; bits < kF32InfBits; bits += 4099) {
    const float x = FloatFromBits(bits);
    worst = std::max(worst, UlpError(Rsqrt(x), 1.0 / std::sqrt(static_cast<double>(x))));
  }
  EXPECT_LT(worst, 1.5);
}

TEST(Pow, MakesRotaryFrequencies) {
  const FpEnv env;
  double worst = 0;
  for (const double base : {10000.0, 500000.0, 1e6, 2.0, 0.5}) {
    for (int i = -256; i <= 256; ++i) {
      const double exponent = i / 128.0;
      worst = std::max(worst, UlpError(Pow(base, exponent), std::pow(base, exponent)));
    }
  }
  EXPECT_LT(worst, 0.51);
  EXPECT_EQ(Pow(500000.0, 0.0), 1.0f);
}

TEST(SinCos, IsNearlyCorrectlyRounded) {
  const FpEnv env;
  std::mt19937 random(1);
  double worst = 0;
  for (int i = 0; i < 1'000'000; ++i) {
    const float x = static_cast<float>(std::ldexp(random() / 4294967296.0, i % 40 - 19)) *
                    (i % 2 == 0 ? 1.0f : -1.0f);
    const SinCosPair pair = SinCos(x);
    const double wide = x;
    for (const auto& [got, want] :
         {std::pair(pair.sin, std::sin(wide)), std::pair(pair.cos, std::cos(wide))}) {
      if (std::abs(static_cast<double>(got) - want) <= 0x1p-52) continue;
      worst = std::max(worst, UlpError(got, want));
    }
  }
  EXPECT_LT(worst, 0.51);
  EXPECT_EQ(SinCos(0.0f).sin, 0.0f);
  EXPECT_EQ(SinCos(0.0f).cos, 1.0f);
}

// Sums strings in brackets: shows the order of every addition.
std::string Merged(std::vector<std::string> parts, const std::vector<MergeStep>& steps) {
  for (const MergeStep& step : steps) {
    parts[step.into] = "(" + parts[step.into] + "+" + parts[step.from] + ")";
  }
  return parts.empty() ? "" : parts[0];
}

std::string TreeText(int begin, int end) {
  if (end - begin == 1) return std::to_string(begin);
  const int middle = begin + TreeSplit(end - begin);
  return "(" + TreeText(begin, middle) + "+" + TreeText(middle, end) + ")";
}

TEST(Tree, LeftIsTheLargestPowerOfTwoBelow) {
  EXPECT_EQ(TreeText(0, 3), "((0+1)+2)");
  EXPECT_EQ(TreeText(0, 4), "((0+1)+(2+3))");
  EXPECT_EQ(TreeText(0, 7), "(((0+1)+(2+3))+((4+5)+6))");
}

TEST(Tree, AnyDivisionIntoRunsGivesTheSameAdditions) {
  for (int count = 1; count <= 24; ++count) {
    for (int ranks = 1; ranks <= count; ++ranks) {
      std::vector<LeafRun> pieces;
      std::vector<std::string> sums;
      for (int rank = 0; rank < ranks; ++rank) {
        int next = RunOfRank(count, ranks, rank).begin;
        for (const LeafRun& piece : MaximalSubtrees(count, RunOfRank(count, ranks, rank))) {
          EXPECT_EQ(piece.begin, next);
          next = piece.end;
          pieces.push_back(piece);
          std::vector<std::string> leaves;
          for (int i = piece.begin; i < piece.end; ++i) leaves.push_back(std::to_string(i));
          sums.push_back(Merged(leaves, MergeSteps(piece.end - piece.begin)));
        }
        EXPECT_EQ(next, RunOfRank(count, ranks, rank).end);
      }
      EXPECT_EQ(Merged(sums, MergeSteps(count, pieces)), TreeText(0, count));
    }
  }
}

TEST(Units, OfTheModelsWeKnow) {
  EXPECT_EQ(MlpUnits(1536, false), (UnitCut{192, 8}));  // SmolLM2-135M
  EXPECT_EQ(MlpUnits(1536, true), (UnitCut{256, 6}));
  EXPECT_EQ(MlpUnits(14336, false), (UnitCut{1792, 8}));  // Llama-3.1-8B
  EXPECT_EQ(MlpUnits(14336, true), (UnitCut{1792, 8}));
  EXPECT_EQ(MlpUnits(100, false), (UnitCut{32, 4}));
  EXPECT_EQ(AttentionUnits(3, 192, false), (UnitCut{192, 3}));
  EXPECT_EQ(AttentionUnits(3, 192, true), (UnitCut{384, 2}));
  EXPECT_EQ(AttentionUnits(8, 512, true), (UnitCut{512, 8}));
}

TEST(Philox, KnownAnswers) {
  using testing::ElementsAre;
  EXPECT_THAT(Philox({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  EXPECT_THAT(Philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
              ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(
      Philox({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}),
      ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
  EXPECT_NE(PhiloxAt(1, 2, 0), PhiloxAt(1, 3, 0));
  EXPECT_LT(UnitFloat(~0u), 1.0f);
}

TEST(Philox, UniformBelowABound) {
  EXPECT_EQ(UniformBelow(0, 1, 2, 3), 0u);
  EXPECT_EQ(UniformBelow(1, 1, 2, 3), 0u);
  // Of the whole range it is the words themselves, less one in 2^64.
  const PhiloxBlock words = PhiloxAt(9, 4, 1);
  const uint64_t bits = uint64_t{words[1]} << 32 | words[0];
  EXPECT_EQ(UniformBelow(~uint64_t{0}, 9, 4, 1), bits - 1);
  EXPECT_EQ(UniformBelow(uint64_t{1} << 32, 9, 4, 1), words[1]);
  std::array<int, 7> seen = {};
  for (uint64_t position = 0; position < 70000; ++position) {
    ++seen.at(static_cast<size_t>(UniformBelow(seen.size(), 5, position, 0)));
  }
  for (const int count : seen) EXPECT_NEAR(count, 10000, 400);  // four standard errors
}

}  // namespace
}  // namespace octavo
