#include "worker/serve/sampler.h"

#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "core/base/error.h"
#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

v1::Sampling Settings(float temperature, uint32_t top_k = 0, float top_p = 0, uint64_t seed = 7) {
  v1::Sampling sampling;
  sampling.set_temperature(temperature);
  sampling.set_top_k(top_k);
  sampling.set_top_p(top_p);
  sampling.set_seed(seed);
  return sampling;
}

std::map<int32_t, int> Counts(std::span<const float> logits, const v1::Sampling& sampling, int n) {
  std::map<int32_t, int> counts;
  for (int i = 0; i < n; ++i) {
    counts[Sample(logits, sampling, static_cast<uint64_t>(i), {})->id()]++;
  }
  return counts;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestOfEquals) {
  const std::vector<float> logits = {1, 3, -2, 3, 0};
  EXPECT_EQ(Sample(logits, Settings(0), 0, {})->id(), 1);
}

TEST(Sampler, DrawsFollowTheSoftmax) {
  const FpEnv environment;
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f)};
  const auto counts = Counts(logits, Settings(1), 40000);
  EXPECT_NEAR(counts.at(0) / 40000.0, 1 / 8.0, 0.01);
  EXPECT_NEAR(counts.at(1) / 40000.0, 2 / 8.0, 0.01);
  EXPECT_NEAR(counts.at(2) / 40000.0, 5 / 8.0, 0.01);
}

TEST(Sampler, TemperatureSharpens) {
  const std::vector<float> logits = {0.0f, 1.0f};
  const auto cold = Counts(logits, Settings(0.5f), 20000);
  EXPECT_NEAR(cold.at(1) / 20000.0, 1 / (1 + std::exp(-2.0)), 0.015);
}

TEST(Sampler, TopKKeepsTheMostLikelyWithTiesToTheLowerId) {
  const std::vector<float> logits = {1, 2, 2, 2, 0};
  const auto counts = Counts(logits, Settings(1, 2), 2000);
  EXPECT_EQ(counts.size(), 2u);
  EXPECT_TRUE(counts.contains(1) && counts.contains(2));
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  // Probabilities 0.5, 0.3, 0.2.
  const std::vector<float> logits = {std::log(2.0f), std::log(5.0f), std::log(3.0f)};
  EXPECT_EQ(Counts(logits, Settings(1, 0, 0.45f), 500).size(), 1u);
  const auto two = Counts(logits, Settings(1, 0, 0.7f), 8000);
  EXPECT_EQ(two.size(), 2u);
  EXPECT_NEAR(two.at(1) / 8000.0, 5 / 8.0, 0.02);
  EXPECT_EQ(Counts(logits, Settings(1, 0, 0.95f), 2000).size(), 3u);
  EXPECT_EQ(Counts(logits, Settings(1, 1, 0.95f), 500).size(), 1u);
}

TEST(Sampler, ADrawDependsOnSeedAndPositionOnly) {
  std::mt19937 random(3);
  std::vector<float> logits(1000);
  for (float& x : logits) x = static_cast<float>(random() % 1000) / 200.0f;
  int moved = 0;
  for (uint64_t position = 0; position < 50; ++position) {
    const int32_t id = Sample(logits, Settings(1, 0, 0, 42), position, {})->id();
    EXPECT_EQ(Sample(logits, Settings(1, 0, 0, 42), position, {})->id(), id);
    moved += Sample(logits, Settings(1, 0, 0, 43), position, {})->id() != id;
  }
  EXPECT_GT(moved, 40);
}

TEST(Sampler, LogprobsAreOfTheRawLogits) {
  const FpEnv environment;
  std::mt19937 random(5);
  std::vector<float> logits(5000);
  for (float& x : logits) x = static_cast<float>(random() % 20000) / 1000.0f - 10.0f;
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x));
  const auto token = *Sample(logits, Settings(0.3f), 0, {.want_logprob = true, .top_logprobs = 5});
  EXPECT_NEAR(token.logprob(), logits[static_cast<size_t>(token.id())] - std::log(sum), 2e-5);
  ASSERT_EQ(token.top_size(), 5);
  EXPECT_EQ(token.top(0).id(), ArgMax(logits));
  for (int i = 1; i < 5; ++i) EXPECT_LE(token.top(i).logprob(), token.top(i - 1).logprob());
  EXPECT_NEAR(token.top(4).logprob(),
              logits[static_cast<size_t>(token.top(4).id())] - std::log(sum), 2e-5);
}

TEST(Sampler, NotANumberIsAnError) {
  const std::vector<float> logits = {1, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_EQ(ReasonOf(Sample(logits, Settings(0), 0, {}).status()), Reason::kNonFinite);
}

TEST(Sampler, RangesAreChecked) {
  EXPECT_TRUE(CheckSampling(Settings(0.7f, 40, 0.9f)).ok());
  EXPECT_EQ(ReasonOf(CheckSampling(Settings(-1))), Reason::kBadRequest);
  EXPECT_EQ(ReasonOf(CheckSampling(Settings(NAN))), Reason::kBadRequest);
  EXPECT_EQ(ReasonOf(CheckSampling(Settings(1, 0, 1.5f))), Reason::kBadRequest);
}

}  // namespace
}  // namespace octavo
