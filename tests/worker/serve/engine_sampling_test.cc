// What a request's sampling does through the engine: rules that follow the output, what is told of
// a prompt.

#include <algorithm>
#include <atomic>
#include <chrono>

#include "core/base/error.h"
#include "gtest/gtest.h"
#include "worker/serve/engine.h"

namespace octavo {
namespace {

constexpr int64_t kVocab = 16;

// A model of one rule, on one rank: after token t comes t + 1 (mod 16), with certainty that falls
// with t.
class OneRank {
 public:
  OneRank()
      : engine({.vocab_size = kVocab, .limits = {.block_count = 64, .max_model_len = 2048}},
               {.send = [](const v1::Step&) { return absl::OkStatus(); },
                .run = [this](const v1::Step& step) { return Run(step); },
                .residuals = [] { return std::span<const uint16_t>(); },
                .collect = [](uint64_t) { return std::vector<v1::StepDone>(); },
                .broken = [](const absl::Status& why) { ADD_FAILURE() << why; }},
               Clock::System()) {}

  // Runs a request to its end.
  v1::EngineEvent Generate(const v1::EngineRequest& request) {
    const auto call = *engine.Generate(request);
    return Drain(*call);
  }
  v1::EngineScoreResponse Score(const v1::EngineScoreRequest& request) {
    const auto call = *engine.Score(request);
    (void)Drain(*call);
    return call->TakeScore();
  }

  std::atomic<int> steps = 0;

 private:
  static v1::EngineEvent Drain(EngineCall& call) {
    v1::EngineEvent all;
    for (int i = 0; i < 1000; ++i) {
      v1::EngineEvent event;
      const EngineCall::News news = call.Wait(std::chrono::milliseconds(20), &event);
      if (news == EngineCall::News::kEvent || news == EngineCall::News::kFinished) {
        all.MergeFrom(event);
      }
      if (news == EngineCall::News::kFinished) return all;
    }
    ADD_FAILURE() << "the call did not end";
    return all;
  }

  absl::StatusOr<std::span<const float>> Run(const v1::Step& step) {
    ++steps;
    logits_.clear();
    for (const v1::StepChunk& chunk : step.chunks()) {
      for (int i = 0; i < chunk.tokens_size(); ++i) {
        const bool last = i + 1 == chunk.tokens_size();
        if (!chunk.logits_all() && !(chunk.logits_last() && last)) continue;
        std::vector<float> row(kVocab, 0.0f);
        row[static_cast<size_t>((chunk.tokens(i) + 1) % kVocab)] =
            10.0f - static_cast<float>(chunk.tokens(i)) / 4;
        logits_.insert(logits_.end(), row.begin(), row.end());
      }
    }
    return logits_;
  }

  std::vector<float> logits_;

 public:
  Engine engine;  // its thread ends before what it calls
};

v1::EngineRequest Request(const std::vector<int32_t>& prompt, uint32_t max_tokens) {
  v1::EngineRequest request;
  request.mutable_prompt()->Add(prompt.begin(), prompt.end());
  request.set_max_tokens(max_tokens);
  return request;
}

std::vector<int32_t> Ids(const v1::EngineEvent& event) {
  std::vector<int32_t> ids;
  for (const v1::EngineToken& token : event.tokens()) ids.push_back(token.id());
  return ids;
}

TEST(EngineSampling, BeforeMinTokensNoStopIdComes) {
  OneRank group;
  v1::EngineRequest request = Request({3}, 100);
  request.add_stop_ids(5);  // would be the second
  request.set_min_tokens(4);
  // After 4 the model says 5, which is masked; of all others, equal, the lowest comes.
  const v1::EngineEvent event = group.Generate(request);
  EXPECT_EQ(Ids(event), (std::vector<int32_t>{4, 0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(event.finish(), v1::FINISH_STOP);
  EXPECT_EQ(event.stop_id(), 5);
}

TEST(EngineSampling, PenaltiesFollowTheOutput) {
  OneRank group;
  v1::EngineRequest request = Request({3}, 40);
  request.mutable_sampling()->set_frequency_penalty(2);
  (*request.mutable_sampling()->mutable_logit_bias())[15] = -100;  // after 14 comes 0 therefore
  request.mutable_sampling()->set_presence_penalty(-0.5f);
  // The rule of the model and of the penalties, by hand.
  std::vector<int32_t> expected;
  std::vector<int> times(kVocab, 0);
  for (int32_t last = 3; expected.size() < 40; last = expected.back()) {
    std::vector<float> row(kVocab, 0.0f);
    row[static_cast<size_t>((last + 1) % kVocab)] = 10.0f - static_cast<float>(last) / 4;
    row[15] -= 100;
    for (size_t i = 0; i < row.size(); ++i) {
      if (times[i] > 0) row[i] = row[i] - 2.0f * static_cast<float>(times[i]) + 0.5f;
    }
    expected.push_back(static_cast<int32_t>(std::ranges::max_element(row) - row.begin()));
    ++times[static_cast<size_t>(expected.back())];
  }
  EXPECT_EQ(Ids(group.Generate(request)), expected);
}

TEST(EngineSampling, PromptLogprobsAreThoseOfAScoreAndCostNoSecondPass) {
  OneRank group;
  v1::EngineScoreRequest score;
  v1::EngineRequest request = Request({}, 3);
  for (int i = 0; i < 600; ++i) {
    score.add_ids((i * i) % 16);
    request.add_prompt((i * i) % 16);
  }
  const v1::EngineScoreResponse expected = group.Score(score);
  const std::vector<int32_t> plain = Ids(group.Generate(request));
  request.set_prompt_logprobs(true);
  request.set_logprobs(2);
  const int before = group.steps;
  const v1::EngineEvent event = group.Generate(request);
  EXPECT_EQ(group.steps - before, 3 + 2);  // 600 tokens are three chunks
  EXPECT_EQ(Ids(event), plain);
  ASSERT_EQ(event.prompt_size(), 599);
  for (int i = 0; i < 599; ++i) {
    EXPECT_EQ(event.prompt(i).id(), request.prompt(i + 1));
    EXPECT_EQ(event.prompt(i).logprob(), expected.logprobs(i));
    ASSERT_EQ(event.prompt(i).top_size(), 2);
    EXPECT_EQ(event.prompt(i).top(0).id(), (request.prompt(i) + 1) % 16);
  }
  // One token has none before it.
  request.mutable_prompt()->Truncate(1);
  const v1::EngineEvent one = group.Generate(request);
  EXPECT_EQ(one.prompt_size(), 0);
  EXPECT_EQ(one.tokens_size(), 3);
}

TEST(EngineSampling, RejectsByReason) {
  OneRank group;
  v1::EngineRequest request = Request({1}, 1);
  (*request.mutable_sampling()->mutable_logit_bias())[15] = 1;
  EXPECT_TRUE(group.engine.Generate(request).ok());
  (*request.mutable_sampling()->mutable_logit_bias())[16] = 1;
  EXPECT_EQ(ReasonOf(group.engine.Generate(request).status()), Reason::kBadRequest);
  request = Request({1}, 1);
  request.set_min_tokens(2);
  EXPECT_EQ(ReasonOf(group.engine.Generate(request).status()), Reason::kBadRequest);
  request.set_min_tokens(1);
  for (int32_t id = 0; id < kVocab; ++id) request.add_stop_ids(id);
  EXPECT_EQ(ReasonOf(group.engine.Generate(request).status()), Reason::kBadRequest);
}

}  // namespace
}  // namespace octavo
