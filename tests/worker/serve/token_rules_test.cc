#include "worker/serve/token_rules.h"

#include <cmath>
#include <limits>

#include "core/base/error.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

constexpr float kGone = -std::numeric_limits<float>::infinity();

v1::EngineRequest Request(const std::vector<int32_t>& prompt = {}) {
  v1::EngineRequest request;
  request.mutable_prompt()->Add(prompt.begin(), prompt.end());
  request.set_max_tokens(100);
  return request;
}

std::vector<float> After(const TokenRules& rules, const std::vector<float>& logits) {
  std::vector<float> buffer;
  const std::span<const float> row = rules.Apply(logits, buffer);
  return {row.begin(), row.end()};
}

TEST(TokenRules, WithoutRulesTheRowIsNotCopied) {
  v1::EngineRequest request = Request({1, 2});
  request.mutable_sampling()->set_repetition_penalty(1.0f);  // off
  request.add_stop_ids(1);
  TokenRules rules = *TokenRules::Create(request, 4);
  const std::vector<float> logits = {1, 2, 3, 4};
  std::vector<float> buffer;
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(rules.Apply(logits, buffer).data(), logits.data());
    rules.Append(i);
  }
  EXPECT_TRUE(buffer.empty());
  EXPECT_EQ(rules.emitted(), 3u);
}

TEST(TokenRules, RepetitionDividesWhatIsPositiveAndMultipliesTheRest) {
  v1::EngineRequest request = Request({0, 1, 1, 3});
  request.mutable_sampling()->set_repetition_penalty(2.0f);
  TokenRules rules = *TokenRules::Create(request, 6);
  const std::vector<float> logits = {3, -3, 5, 0, -1, 8};
  EXPECT_EQ(After(rules, logits), (std::vector<float>{1.5f, -6, 5, 0, -1, 8}));
  rules.Append(5);  // of the output, too; how often does not matter
  rules.Append(5);
  rules.Append(4);
  EXPECT_EQ(After(rules, logits), (std::vector<float>{1.5f, -6, 5, 0, -2, 4}));
  // Below one it favours what was there.
  request.mutable_sampling()->set_repetition_penalty(0.5f);
  EXPECT_EQ(After(*TokenRules::Create(request, 6), logits),
            (std::vector<float>{6, -1.5f, 5, 0, -1, 8}));
}

TEST(TokenRules, PresenceAndFrequencyAreOfTheOutputAlone) {
  v1::EngineRequest request = Request({0, 0, 1});
  request.mutable_sampling()->set_presence_penalty(0.5f);
  request.mutable_sampling()->set_frequency_penalty(0.25f);
  TokenRules rules = *TokenRules::Create(request, 4);
  const std::vector<float> logits = {1, -1, 2, 0};
  EXPECT_EQ(After(rules, logits), logits);
  rules.Append(1);
  rules.Append(2);
  rules.Append(2);
  rules.Append(2);
  EXPECT_EQ(After(rules, logits), (std::vector<float>{1, -1.75f, 0.75f, 0}));
  request.mutable_sampling()->set_presence_penalty(-1);
  request.mutable_sampling()->set_frequency_penalty(0);
  TokenRules favour = *TokenRules::Create(request, 4);
  favour.Append(3);
  favour.Append(3);
  EXPECT_EQ(After(favour, logits), (std::vector<float>{1, -1, 2, 1}));
}

TEST(TokenRules, BiasComesBeforeTheMaskAndTheMaskBeforePenalties) {
  v1::EngineRequest request = Request({0, 1});
  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_repetition_penalty(2.0f);
  sampling.set_presence_penalty(-2.0f);
  (*sampling.mutable_logit_bias())[0] = 5;  // -1 becomes positive, and is divided then
  (*sampling.mutable_logit_bias())[1] = 100;
  (*sampling.mutable_logit_bias())[2] = -100;  // unlikely, yet not impossible
  request.add_stop_ids(1);
  request.add_stop_ids(1);
  request.add_stop_ids(99);  // of no logit
  request.set_min_tokens(2);
  TokenRules rules = *TokenRules::Create(request, 4);
  const std::vector<float> logits = {-1, 7, 1, 0};
  EXPECT_EQ(After(rules, logits), (std::vector<float>{2, kGone, -99, 0}));
  rules.Append(3);
  EXPECT_EQ(After(rules, logits), (std::vector<float>{2, kGone, -99, 2}));
  rules.Append(0);  // two are out: the mask is off
  EXPECT_EQ(After(rules, logits), (std::vector<float>{4, 53.5f, -99, 2}));
  EXPECT_TRUE(rules.IsStop(1));
  EXPECT_FALSE(rules.IsStop(0));
}

TEST(TokenRules, AllMaskedButOneLeavesThatOne) {
  v1::EngineRequest request = Request({0});
  request.set_min_tokens(1);
  for (const int32_t id : {0, 1, 3}) request.add_stop_ids(id);
  EXPECT_EQ(After(*TokenRules::Create(request, 4), {9, 9, -50, 9}),
            (std::vector<float>{kGone, kGone, -50, kGone}));
  request.add_stop_ids(2);
  EXPECT_EQ(ReasonOf(TokenRules::Create(request, 4).status()), Reason::kBadRequest);
  EXPECT_TRUE(TokenRules::Create(request, 5).ok());
  request.set_min_tokens(0);  // then they stop, as they may
  EXPECT_TRUE(TokenRules::Create(request, 4).ok());
}

TEST(TokenRules, BiasedIdsAreOfTheVocabulary) {
  for (const int32_t id : {-1, 4}) {
    v1::EngineRequest request = Request();
    (*request.mutable_sampling()->mutable_logit_bias())[id] = 1;
    EXPECT_EQ(ReasonOf(TokenRules::Create(request, 4).status()), Reason::kBadRequest);
  }
}

TEST(TokenRules, NothingLeavesF32) {
  v1::EngineRequest request = Request({0, 1});
  request.mutable_sampling()->set_repetition_penalty(0.01f);
  EXPECT_EQ(After(*TokenRules::Create(request, 2), {3e38f, 0})[0],
            std::numeric_limits<float>::max());
  request.mutable_sampling()->set_repetition_penalty(100.0f);
  EXPECT_EQ(After(*TokenRules::Create(request, 2), {-3e38f, 0})[0],
            std::numeric_limits<float>::lowest());
}

TEST(TokenRules, AnOutputGivenAgainGivesTheSameRow) {
  v1::EngineRequest request = Request({5, 6, 7});
  request.mutable_sampling()->set_repetition_penalty(1.3f);
  request.mutable_sampling()->set_frequency_penalty(0.7f);
  request.set_min_tokens(40);
  request.add_stop_ids(3);
  TokenRules first = *TokenRules::Create(request, 64);
  std::vector<int32_t> output;
  std::vector<float> logits(64);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i) * 1.7f);
  for (int i = 0; i < 60; ++i) {
    TokenRules again = *TokenRules::Create(request, 64);
    for (const int32_t id : output) again.Append(id);
    EXPECT_EQ(After(first, logits), After(again, logits)) << i;
    output.push_back((i * i) % 23);
    first.Append(output.back());
  }
}

}  // namespace
}  // namespace octavo
