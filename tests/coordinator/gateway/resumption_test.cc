// Streams whose gateway died, taken up from what a worker remembers.

#include "coordinator/gateway/resumption.h"

#include "tests/coordinator/gateway/gateway_fixture.h"

namespace octavo {
namespace {

class ResumptionTest : public GatewayTest {
 protected:
  static v1::GenerateRequest Named(v1::GenerateRequest request) {
    request.set_request_id("r");
    return request;
  }
  static v1::GenerateRequest Resume(const std::vector<uint32_t>& has) {
    v1::GenerateRequest request;
    request.set_request_id("r");
    request.mutable_from_index()->Add(has.begin(), has.end());
    return request;
  }

  // What the leader remembers of the last request once it has told `tokens` tokens of a choice.
  std::string Told(size_t tokens) const {
    v1::EngineEvent event;
    for (size_t i = 0; i < tokens; ++i) event.add_tokens()->set_id(leader_.answer[i]);
    if (tokens == leader_.answer.size()) {
      event.set_finish(leader_.finish);
      event.set_stop_id(leader_.finish == v1::FINISH_STOP ? leader_.answer.back() : -1);
    }
    return event.SerializeAsString();
  }
  void Remember(const std::vector<size_t>& tokens) {
    MutexLock lock(leader_.mutex);
    v1::LoggedRequest& log = leader_.logs["r"];
    log.Clear();
    log.set_note(leader_.last.note());
    for (size_t i = 0; i < tokens.size(); ++i) {
      v1::LoggedAnswer& answer = *log.add_answers();
      answer.set_choice(static_cast<uint32_t>(i));
      answer.set_told(Told(tokens[i]));
    }
  }

  // Tokens and text of every delta, in order.
  struct Heard {
    std::vector<int32_t> ids;
    std::vector<std::string> texts;  // by token
    v1::Finished finished;
    absl::Status status;
  };
  Heard Hear(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    auto reader = stub_->Generate(&context, request);
    Heard heard;
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      if (response.has_finished()) heard.finished = response.finished();
      for (const auto& token : response.delta().tokens()) {
        heard.ids.push_back(token.id());
        heard.texts.emplace_back();
      }
      if (response.delta().text().empty()) continue;
      if (heard.texts.empty()) heard.texts.emplace_back();
      heard.texts.back() += response.delta().text();
    }
    heard.status = FromGrpc(reader->Finish());
    return heard;
  }

  // Whatever the client has and whatever the log has, the rest is what would have come.
  void CheckEveryCut(const v1::GenerateRequest& request) {
    const Heard whole = Hear(Named(request));
    ASSERT_TRUE(whole.status.ok()) << whole.status;
    const size_t count = whole.ids.size();
    ASSERT_GT(count, 5u);
    for (size_t has = 0; has <= count; ++has) {
      for (const size_t logged : {size_t{0}, has / 2, has, has + 1, leader_.answer.size()}) {
        if (logged > leader_.answer.size()) continue;
        Remember({logged});
        const Heard rest = Hear(Resume({static_cast<uint32_t>(has)}));
        ASSERT_TRUE(rest.status.ok()) << rest.status << has << logged;
        std::string text, expected;
        for (const std::string& piece : rest.texts) text += piece;
        for (size_t i = has; i < count; ++i) expected += whole.texts[i];
        EXPECT_EQ(rest.ids, std::vector<int32_t>(whole.ids.begin() + static_cast<int64_t>(has),
                                                 whole.ids.end()));
        EXPECT_EQ(text, expected) << has << " " << logged;
        EXPECT_EQ(rest.finished.reason(), whole.finished.reason());
        EXPECT_EQ(rest.finished.matched_stop(), whole.finished.matched_stop());
        EXPECT_EQ(rest.finished.seed(), whole.finished.seed());
        EXPECT_EQ(rest.finished.usage().completion_tokens(), count);
      }
    }
    EXPECT_EQ(leader_.wrong_outputs, 0);
  }
};

TEST_F(ResumptionTest, TheRestIsWhatWouldHaveCome) {
  leader_.answer = Ids("one naïve 🙂 日本語 two");
  CheckEveryCut(Prompt("Count with me"));
  leader_.finish = v1::FINISH_STOP;
  CheckEveryCut(Prompt("Count with me"));
}

TEST_F(ResumptionTest, StopStringsEndItAtTheSamePlace) {
  leader_.answer = Ids("one two 🙂 three four five six");
  v1::GenerateRequest request = Prompt("Count with me");
  request.add_stop("four fi");
  request.add_stop("three x");  // held back for a while, in vain
  CheckEveryCut(request);
  request.set_min_tokens(3);
  CheckEveryCut(request);
}

TEST_F(ResumptionTest, EveryChoiceHasItsOwnPlace) {
  v1::GenerateRequest request = Named(Prompt("Count with me"));
  request.set_n(3);
  ASSERT_TRUE(Hear(request).status.ok());
  const size_t count = leader_.answer.size();
  Remember({2, count, 1});
  v1::GenerateRequest resume = Resume({2, static_cast<uint32_t>(count)});  // and 0 of the third
  grpc::ClientContext context;
  auto reader = stub_->Generate(&context, resume);
  v1::GenerateResponse response;
  std::map<uint32_t, std::vector<int32_t>> ids;
  int finished = 0;
  while (reader->Read(&response)) {
    finished += response.has_finished() ? 1 : 0;
    for (const auto& token : response.delta().tokens()) {
      ids[response.delta().index()].push_back(token.id());
    }
  }
  ASSERT_TRUE(reader->Finish().ok());
  EXPECT_EQ(finished, 3);
  EXPECT_EQ(ids[0], std::vector<int32_t>(leader_.answer.begin() + 2, leader_.answer.end()));
  EXPECT_TRUE(ids[1].empty());
  EXPECT_EQ(ids[2], leader_.answer);
}

TEST_F(ResumptionTest, ThePromptIsToldAgainToWhoHasNothing) {
  v1::GenerateRequest request = Named(Prompt("Count with me"));
  request.set_prompt_logprobs(true);
  ASSERT_TRUE(Hear(request).status.ok());
  for (const uint32_t has : {0u, 1u}) {
    Remember({leader_.answer.size() - 1});
    grpc::ClientContext context;
    auto reader = stub_->Generate(&context, Resume({has}));
    v1::GenerateResponse response;
    int prompt = 0, tokens = 0;
    while (reader->Read(&response)) {
      prompt += response.delta().prompt_tokens_size();
      tokens += response.delta().tokens_size();
    }
    ASSERT_TRUE(reader->Finish().ok());
    EXPECT_EQ(prompt > 0, has == 0);
    EXPECT_EQ(tokens + static_cast<int>(has), std::ssize(leader_.answer));
  }
}

TEST_F(ResumptionTest, WhatDoesNotGoTogetherIsRefused) {
  ASSERT_TRUE(Hear(Named(Prompt("x"))).status.ok());
  Remember({1});
  const auto reason = [&](const v1::GenerateRequest& request) {
    const absl::Status status = Hear(request).status;
    return status.ok() ? Reason::kInternal : ReasonOf(status);
  };
  v1::GenerateRequest request = Resume({1});
  request.clear_request_id();
  EXPECT_EQ(reason(request), Reason::kBadRequest);
  request = Resume({1});
  request.set_prompt("x");
  EXPECT_EQ(reason(request), Reason::kBadRequest);
  request = Resume({1});
  request.set_temperature(1);
  EXPECT_EQ(reason(request), Reason::kBadRequest);
  EXPECT_EQ(reason(Resume({1, 1})), Reason::kBadRequest);
  request = Resume({1});
  request.set_model("other");
  EXPECT_EQ(reason(request), Reason::kBadRequest);
  request = Resume({1});
  request.set_request_id("unknown");
  EXPECT_EQ(reason(request), Reason::kNotReady);  // this gateway is young
  EXPECT_EQ(ReasonOf(ChooseLog({}, request).status()), Reason::kNotFound);
  v1::ModelInfo model = *models_.Find("m");
  model.set_model_dir("/elsewhere");
  models_.Put(model);
  EXPECT_EQ(reason(Resume({1})), Reason::kNotFound);
}

TEST_F(ResumptionTest, ALaterStreamOfTheSameRequestTakesOver) {
  MakeLong();
  leader_.answer.resize(200);
  v1::GenerateRequest request = Named(Prompt("x"));
  std::atomic<int> seen = 0;
  Answer first;
  std::jthread client([&] { first = Generate(request, nullptr, &seen); });
  ASSERT_TRUE(Eventually([&] { return seen > 3; }));
  Remember({3});
  EXPECT_EQ(ReasonOf(Generate(request).status), Reason::kBadRequest);  // not asked anew
  const Heard second = Hear(Resume({2}));
  client.join();
  EXPECT_EQ(ReasonOf(first.status), Reason::kBusy) << first.status;
  ASSERT_TRUE(second.status.ok()) << second.status;
  EXPECT_EQ(second.ids, std::vector<int32_t>(leader_.answer.begin() + 2, leader_.answer.end()));
}

TEST_F(ResumptionTest, OfSeveralLogsTheLastRequestAndTheLongestAnswerCount) {
  const auto note = [](uint64_t begun) {
    v1::StreamNote out;
    out.mutable_request()->set_n(2);
    out.set_begun_nanos(begun);
    return out.SerializeAsString();
  };
  const auto log = [&](uint64_t begun, const std::vector<size_t>& tokens) {
    v1::LoggedRequest logged;
    logged.set_note(note(begun));
    for (size_t i = 0; i < tokens.size(); ++i) {
      v1::LoggedAnswer& answer = *logged.add_answers();
      answer.set_choice(static_cast<uint32_t>(i));
      answer.set_told(Told(tokens[i]));
    }
    return logged;
  };
  const auto chosen = ChooseLog({log(7, {4, 4}), log(9, {1, 3}), log(9, {2})}, Resume({1}));
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ(chosen->note, note(9));
  EXPECT_EQ(chosen->told.at(0), Told(2));
  EXPECT_EQ(chosen->told.at(1), Told(3));
  EXPECT_EQ(chosen->client_tokens, (std::vector<uint32_t>{1, 0}));
}

TEST_F(ResumptionTest, OnlyNamedRequestsOfBoundedSizeLeaveANote) {
  ASSERT_TRUE(Hear(Prompt("x")).status.ok());
  const auto note = [&] {
    MutexLock lock(leader_.mutex);
    return leader_.last.note();
  };
  EXPECT_TRUE(note().empty());
  ASSERT_TRUE(Hear(Named(Prompt("x"))).status.ok());
  v1::StreamNote kept;
  ASSERT_TRUE(kept.ParseFromString(note()));
  EXPECT_TRUE(kept.request().has_seed());
  EXPECT_EQ(kept.request().model(), "m");
  v1::GenerateRequest large = Named(Prompt("x"));
  large.mutable_token_ids()->mutable_ids()->Resize(kNoteBytesMax, 1);
  ASSERT_TRUE(Hear(large).status.ok());
  EXPECT_TRUE(note().empty());
}

}  // namespace
}  // namespace octavo
