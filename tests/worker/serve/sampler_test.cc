#include "worker/serve/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
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

TokenRules Rules(const v1::Sampling& sampling, size_t vocab) {
  v1::EngineRequest request;
  *request.mutable_sampling() = sampling;
  return *TokenRules::Create(request, static_cast<int64_t>(vocab));
}

absl::StatusOr<v1::EngineToken> Sample(std::span<const float> logits, const v1::Sampling& sampling,
                                       uint64_t position, const TokenDetail& detail) {
  return Sampler().Sample(logits, Rules(sampling, logits.size()), position, detail);
}

std::map<int32_t, int> Counts(std::span<const float> logits, const v1::Sampling& sampling, int n) {
  Sampler sampler;
  const TokenRules rules = Rules(sampling, logits.size());
  std::map<int32_t, int> counts;
  for (int i = 0; i < n; ++i) {
    counts[sampler.Sample(logits, rules, static_cast<uint64_t>(i))->id()]++;
  }
  return counts;
}

v1::Sampling MinP(float min_p, float temperature = 1) {
  v1::Sampling sampling = Settings(temperature);
  sampling.set_min_p(min_p);
  return sampling;
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
  const auto token = *Sample(logits, Settings(0.3f), 0, {.logprob = true, .top = 5});
  EXPECT_NEAR(token.logprob(), logits[static_cast<size_t>(token.id())] - std::log(sum), 2e-5);
  ASSERT_EQ(token.top_size(), 5);
  EXPECT_EQ(token.top(0).id(), std::ranges::max_element(logits) - logits.begin());
  for (int i = 1; i < 5; ++i) EXPECT_LE(token.top(i).logprob(), token.top(i - 1).logprob());
  EXPECT_NEAR(token.top(4).logprob(),
              logits[static_cast<size_t>(token.top(4).id())] - std::log(sum), 2e-5);
}

TEST(Sampler, NotANumberIsAnError) {
  const std::vector<float> logits = {1, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_EQ(ReasonOf(Sample(logits, Settings(0), 0, {}).status()), Reason::kNonFinite);
}

TEST(Sampler, MinPIsAShareOfTheLargestProbability) {
  // Probabilities 0.5, 0.3, 0.2: of the largest 1, 0.6, 0.4.
  const std::vector<float> logits = {std::log(2.0f), std::log(5.0f), std::log(3.0f)};
  EXPECT_EQ(Counts(logits, MinP(0.39f), 2000).size(), 3u);
  const auto two = Counts(logits, MinP(0.5f), 8000);
  EXPECT_EQ(two.size(), 2u);
  EXPECT_NEAR(two.at(1) / 8000.0, 5 / 8.0, 0.02);
  EXPECT_EQ(Counts(logits, MinP(0.61f), 500).size(), 1u);
  // After temperature: 0.36 and 0.16 of the largest.
  EXPECT_EQ(Counts(logits, MinP(0.39f, 0.5f), 500).size(), 1u);
  EXPECT_EQ(Counts(logits, MinP(0.2f, 0.5f), 2000).size(), 2u);
}

TEST(Sampler, MinPOfOneKeepsTheLargestAndItsEquals) {
  const std::vector<float> logits = {1, 3, 2.9f, 3, 0, 3};
  const auto counts = Counts(logits, MinP(1), 3000);
  EXPECT_EQ(counts.size(), 3u);
  for (const int32_t id : {1, 3, 5}) EXPECT_NEAR(counts.at(id) / 3000.0, 1 / 3.0, 0.05);
}

TEST(Sampler, TopPIsOfWhatMinPAndTopKLeft) {
  // Of 0.5, 0.3, 0.2: without the last, the first alone is 0.625.
  const std::vector<float> logits = {std::log(2.0f), std::log(5.0f), std::log(3.0f)};
  EXPECT_EQ(Counts(logits, Settings(1, 0, 0.6f), 500).size(), 2u);
  EXPECT_EQ(Counts(logits, Settings(1, 2, 0.6f), 500).size(), 1u);
  v1::Sampling both = MinP(0.5f);
  both.set_top_p(0.6f);
  EXPECT_EQ(Counts(logits, both, 500).size(), 1u);
}

TEST(Sampler, TopKOfOneIsGreedyAtAnyTemperature) {
  const std::vector<float> logits = {1, 3, 2, 3, 0};
  const auto counts = Counts(logits, Settings(100, 1), 300);
  EXPECT_EQ(counts.size(), 1u);
  EXPECT_TRUE(counts.contains(1));
}

TEST(Sampler, RulesComeFirstAndGreedyObeysThem) {
  const std::vector<float> logits = {1, 3, 2.5f, 0};
  for (const float temperature : {0.0f, 1.0f}) {
    v1::EngineRequest request;
    request.set_min_tokens(1);
    request.add_stop_ids(1);
    *request.mutable_sampling() = Settings(temperature, temperature > 0 ? 1 : 0);
    (*request.mutable_sampling()->mutable_logit_bias())[1] = 100;
    TokenRules rules = *TokenRules::Create(request, 4);
    EXPECT_EQ(Sampler().Sample(logits, rules, 0)->id(), 2);
    rules.Append(2);
    EXPECT_EQ(Sampler().Sample(logits, rules, 0)->id(), 1);
  }
  // One id is left: it is drawn, whatever else is asked for.
  v1::EngineRequest request;
  request.set_min_tokens(1);
  for (const int32_t id : {0, 1, 2}) request.add_stop_ids(id);
  for (const float p : {0.0f, 0.01f, 0.5f}) {
    *request.mutable_sampling() = Settings(2, 3, p);
    request.mutable_sampling()->set_min_p(p);
    for (uint64_t position = 0; position < 50; ++position) {
      EXPECT_EQ(Sampler().Sample(logits, *TokenRules::Create(request, 4), position)->id(), 3);
    }
  }
}

// What the sampler draws from, the plain way: everything sorted, everything in F64.
std::vector<int32_t> Support(const std::vector<float>& logits, const v1::Sampling& s) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::sort(ids, [&](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  const auto weight = [&](int32_t id) {
    return std::exp(static_cast<double>(logits[id] - logits[ids[0]]) /
                    static_cast<double>(s.temperature()));
  };
  if (s.top_k() > 0 && s.top_k() < ids.size()) ids.resize(s.top_k());
  std::erase_if(ids, [&](int32_t id) { return weight(id) < static_cast<double>(s.min_p()); });
  double total = 0;
  for (const int32_t id : ids) total += weight(id);
  double sum = 0;
  size_t kept = 0;
  if (s.top_p() > 0) {
    while (sum < static_cast<double>(s.top_p()) * total) sum += weight(ids[kept++]);
    ids.resize(kept);
  }
  std::ranges::sort(ids);
  return ids;
}

TEST(Sampler, DrawsExactlyFromTheSupportOnRandomRows) {
  const FpEnv environment;
  std::mt19937 random(11);
  for (int round = 0; round < 60; ++round) {
    std::vector<float> logits(40 + random() % 600);
    const bool coarse = round % 3 == 0;  // many ties
    for (float& x : logits) {
      x = coarse ? static_cast<float>(random() % 8) : static_cast<float>(random() % 100000) / 9000;
    }
    v1::Sampling sampling = Settings(0.5f + static_cast<float>(random() % 100) / 50);
    if (round % 2 == 0) sampling.set_top_k(1 + random() % 40);
    if (round % 5 < 3) sampling.set_top_p(0.3f + static_cast<float>(random() % 60) / 100);
    if (round % 7 < 3) sampling.set_min_p(static_cast<float>(random() % 30) / 100);
    const std::vector<int32_t> support = Support(logits, sampling);
    const auto counts = Counts(logits, sampling, 4000);
    for (const auto& [id, count] : counts) {
      EXPECT_TRUE(std::ranges::binary_search(support, id)) << "round " << round << " id " << id;
    }
    if (support.size() < 20) {
      EXPECT_EQ(counts.size(), support.size()) << "round " << round;
    }
  }
}

TEST(Sampler, WhatIsToldOfAnyTokenIsOfTheRawLogits) {
  const FpEnv environment;
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(5.0f)};
  Sampler sampler;
  const v1::EngineToken token = *sampler.Describe(logits, 1, {.logprob = true, .top = 9});
  EXPECT_EQ(token.id(), 1);
  EXPECT_NEAR(token.logprob(), std::log(2 / 8.0), 1e-6);
  ASSERT_EQ(token.top_size(), 3);
  EXPECT_EQ(token.top(0).id(), 2);
  v1::EngineRequest request;
  (*request.mutable_sampling()->mutable_logit_bias())[0] = 50;
  const v1::EngineToken biased =
      *sampler.Sample(logits, *TokenRules::Create(request, 3), 0, {.logprob = true});
  EXPECT_EQ(biased.id(), 0);
  EXPECT_NEAR(biased.logprob(), std::log(1 / 8.0), 1e-6);
}

}  // namespace
}  // namespace octavo
