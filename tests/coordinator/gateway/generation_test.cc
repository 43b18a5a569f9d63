#include "coordinator/gateway/generation.h"

#include <cmath>
#include <set>

#include "core/base/error.h"
#include "tests/core/text/golden.h"

namespace octavo {
namespace {

class GenerationTest : public ::testing::Test {
 protected:
  GenerationTest() {
    const std::string tokenizer = ReadGolden("llama3.tokenizer.json");
    auto bundle = LoadTextBundle({.tokenizer_json = tokenizer,
                                  .tokenizer_config_json = R"({"eos_token": "<|eot_id|>"})",
                                  .chat_template_jinja = {},
                                  .generation_config_json = {},
                                  .config_json = {}});
    EXPECT_TRUE(bundle.ok()) << bundle.status();
    text_ = *std::move(bundle);
  }

  std::vector<int32_t> Ids(const std::string& text) {
    return *text_.tokenizer->Encode(text, {.add_special_tokens = false});
  }

  // The text a client gets when tokens come in events of `batch`.
  std::string Assemble(const v1::GenerateRequest& request, const std::vector<int32_t>& ids,
                       size_t batch, v1::FinishReason finish = v1::FINISH_LENGTH,
                       int32_t stop_id = -1) {
    Assembler assembler = *Assembler::Create(request, text_);
    std::string text;
    for (size_t at = 0; at < ids.size(); at += batch) {
      v1::EngineEvent event;
      for (size_t i = at; i < std::min(ids.size(), at + batch); ++i) {
        event.add_tokens()->set_id(ids[i]);
      }
      if (at == 0) event.set_cached_tokens(64);
      if (at + batch >= ids.size()) {
        event.set_finish(finish);
        event.set_stop_id(stop_id);
      }
      text += assembler.Push(event).text();
    }
    EXPECT_TRUE(assembler.finished());
    reason_ = assembler.reason();
    matched_ = assembler.matched_stop();
    tokens_ = assembler.tokens();
    EXPECT_EQ(assembler.cached_tokens(), 64u);
    return text;
  }

  TextBundle text_;
  v1::FinishReason reason_ = v1::FINISH_UNSPECIFIED;
  std::string matched_;
  uint32_t tokens_ = 0;
};

TEST_F(GenerationTest, DefaultsAreFilledIn) {
  v1::GenerateRequest request;
  request.set_prompt("Hello there");
  request.set_priority(-3);
  request.set_no_prefix_cache(true);
  const v1::EngineRequest engine = *BuildEngineRequest(request, text_);
  EXPECT_EQ(engine.max_tokens(), kMaxTokensDefault);
  EXPECT_EQ(engine.priority(), -3);
  EXPECT_TRUE(engine.no_prefix_cache());
  EXPECT_EQ(engine.sampling().temperature(), 0.0f);
  ASSERT_EQ(engine.stop_ids_size(), 1);
  EXPECT_EQ(engine.stop_ids(0), *text_.tokenizer->TokenId("<|eot_id|>"));
  EXPECT_FALSE(engine.want_logprob());
  const std::vector<int32_t> prompt(engine.prompt().begin(), engine.prompt().end());
  EXPECT_EQ(prompt, *text_.tokenizer->Encode("Hello there", {}));
  // Seeds are drawn anew.
  std::set<uint64_t> seeds;
  for (int i = 0; i < 5; ++i) seeds.insert(BuildEngineRequest(request, text_)->sampling().seed());
  EXPECT_EQ(seeds.size(), 5u);
  request.set_seed(0);
  EXPECT_EQ(BuildEngineRequest(request, text_)->sampling().seed(), 0u);
  request.set_ignore_eos(true);
  request.add_stop_token_ids(3);
  ASSERT_EQ(BuildEngineRequest(request, text_)->stop_ids_size(), 1);
  EXPECT_EQ(BuildEngineRequest(request, text_)->stop_ids(0), 3);
}

TEST_F(GenerationTest, BadRequestsAreRefusedByReason) {
  v1::GenerateRequest request;
  EXPECT_EQ(ReasonOf(BuildEngineRequest(request, text_).status()), Reason::kBadRequest);
  request.mutable_chat();
  EXPECT_EQ(ReasonOf(BuildEngineRequest(request, text_).status()), Reason::kBadRequest);
  request.mutable_chat()->add_messages()->set_role("user");
  EXPECT_EQ(BuildEngineRequest(request, text_).status().message(),
            text_.chat_template_error.message());
  request.mutable_token_ids();
  EXPECT_EQ(ReasonOf(BuildEngineRequest(request, text_).status()), Reason::kBadRequest);
  request.set_prompt("x");
  request.set_top_logprobs(21);
  EXPECT_EQ(ReasonOf(BuildEngineRequest(request, text_).status()), Reason::kBadRequest);
  request.add_stop("");
  EXPECT_EQ(ReasonOf(Assembler::Create(request, text_).status()), Reason::kBadRequest);
}

TEST_F(GenerationTest, SamplingGoesToTheEngineAndIsCheckedFirst) {
  v1::GenerateRequest request;
  request.set_prompt("x");
  request.set_min_p(0.1f);
  request.set_repetition_penalty(1.3f);
  request.set_presence_penalty(-0.5f);
  request.set_frequency_penalty(0.25f);
  (*request.mutable_logit_bias())[5] = -7;
  request.set_min_tokens(3);
  const v1::EngineRequest engine = *BuildEngineRequest(request, text_);
  EXPECT_EQ(engine.sampling().min_p(), 0.1f);
  EXPECT_EQ(engine.sampling().repetition_penalty(), 1.3f);
  EXPECT_EQ(engine.sampling().presence_penalty(), -0.5f);
  EXPECT_EQ(engine.sampling().frequency_penalty(), 0.25f);
  EXPECT_EQ(engine.sampling().logit_bias().at(5), -7);
  EXPECT_EQ(engine.min_tokens(), 3u);
  request.set_min_tokens(kMaxTokensDefault + 1);
  EXPECT_EQ(ReasonOf(BuildEngineRequest(request, text_).status()), Reason::kBadRequest);
  request.set_min_tokens(0);
  request.set_min_p(NAN);
  EXPECT_EQ(ReasonOf(BuildEngineRequest(request, text_).status()), Reason::kBadRequest);
}

TEST_F(GenerationTest, StopStringsAreLookedForAfterMinTokens) {
  const std::vector<int32_t> ids = Ids("stop one stop two stop three");
  const auto texts = [&](size_t count) {
    if (count == 0) return std::string();
    return Assemble({}, {ids.begin(), ids.begin() + static_cast<ptrdiff_t>(count)}, 1);
  };
  for (size_t least = 0; least <= ids.size(); ++least) {
    v1::GenerateRequest request;
    request.add_stop("stop");
    request.set_min_tokens(static_cast<uint32_t>(least));
    const std::string before = texts(least);
    const std::string after = texts(ids.size()).substr(before.size());
    const size_t at = after.find("stop");
    const std::string want = before + after.substr(0, at);
    for (const size_t batch : {1u, 2u, 100u}) {
      EXPECT_EQ(Assemble(request, ids, batch), want) << least;
      EXPECT_EQ(reason_, at == std::string::npos ? v1::FINISH_LENGTH : v1::FINISH_STOP);
      EXPECT_GE(tokens_, least);
    }
  }
}

TEST_F(GenerationTest, TextDoesNotDependOnHowEventsAreCut) {
  const std::string want = "Grüße, 世界! 🙂 done";
  const std::vector<int32_t> ids = Ids(want);
  for (size_t batch : {1u, 2u, 5u, 100u}) {
    EXPECT_EQ(Assemble({}, ids, batch), want);
    EXPECT_EQ(reason_, v1::FINISH_LENGTH);
    EXPECT_EQ(tokens_, ids.size());
  }
}

TEST_F(GenerationTest, AStopStringEndsTheText) {
  v1::GenerateRequest request;
  request.add_stop("wor");
  request.add_stop("never");
  const std::vector<int32_t> ids = Ids("Hello big world and more");
  for (size_t batch : {1u, 3u, 100u}) {
    EXPECT_EQ(Assemble(request, ids, batch), "Hello big ");
    EXPECT_EQ(reason_, v1::FINISH_STOP);
    EXPECT_EQ(matched_, "wor");
    EXPECT_LT(tokens_, ids.size());
  }
}

TEST_F(GenerationTest, HeldBackTextComesOutAtTheEnd) {
  v1::GenerateRequest request;
  request.add_stop("more words");
  EXPECT_EQ(Assemble(request, Ids("and more"), 1), "and more");
  EXPECT_EQ(reason_, v1::FINISH_LENGTH);
}

TEST_F(GenerationTest, TheEndingIdIsNoText) {
  std::vector<int32_t> ids = Ids("bye");
  const int32_t end = Ids(" now").front();
  ids.push_back(end);
  EXPECT_EQ(Assemble({}, ids, 1, v1::FINISH_STOP, end), "bye");
  EXPECT_EQ(reason_, v1::FINISH_STOP);
  EXPECT_EQ(tokens_, ids.size());
}

TEST_F(GenerationTest, WhatFollowsAPromptKeepsItsSpaceAndAReplyDoesNot) {
  const std::string tokenizer = ReadGolden("mixtral.tokenizer.json");
  text_ = *LoadTextBundle({.tokenizer_json = tokenizer});
  const std::vector<int32_t> ids = Ids("the work");  // with a mark in front
  v1::GenerateRequest request;
  request.set_prompt("This is");
  EXPECT_EQ(Assemble(request, ids, 1), " the work");
  request.mutable_token_ids()->add_ids(ids[0]);
  EXPECT_EQ(Assemble(request, ids, 1), " the work");
  request.mutable_chat()->add_messages()->set_content("Say it.");
  EXPECT_EQ(Assemble(request, ids, 1), "the work");
  request.mutable_chat()->set_omit_generation_prompt(true);  // goes on with the last message
  EXPECT_EQ(Assemble(request, ids, 1), " the work");
}

}  // namespace
}  // namespace octavo
