// The gateway as clients see it.

#include "tests/coordinator/gateway/gateway_fixture.h"

namespace octavo {
namespace {

TEST_F(GatewayTest, AnswersAPrompt) {
  v1::GenerateRequest request = Prompt("Count");
  request.set_logprobs(true);
  request.set_seed(77);
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text, "one two three four five");
  EXPECT_EQ(answer.tokens.size(), leader_.answer.size());
  EXPECT_EQ(answer.tokens[0].logprob(), -0.5f);
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_LENGTH);
  EXPECT_EQ(answer.finished.seed(), 77u);
  EXPECT_EQ(answer.finished.usage().completion_tokens(), leader_.answer.size());
  EXPECT_EQ(answer.finished.usage().prompt_tokens(), text_.tokenizer->Encode("Count", {})->size());
  EXPECT_GT(answer.finished.time_to_first_token_seconds(), 0);
  EXPECT_GE(answer.finished.total_seconds(), answer.finished.time_to_first_token_seconds());
  EXPECT_EQ(metrics_.ValueOf(metric::kRequests, {"generate", "length"}), 1);
  EXPECT_EQ(metrics_.ValueOf(metric::kGenerationTokens),
            static_cast<double>(leader_.answer.size()));
  EXPECT_EQ(metrics_.ValueOf(metric::kRequestsRunning), 0);
}

TEST_F(GatewayTest, AChatGoesThroughTheTemplate) {
  v1::GenerateRequest request;
  v1::ChatMessage& message = *request.mutable_chat()->add_messages();
  message.set_role("user");
  message.set_content("hi");
  ASSERT_TRUE(Generate(request).status.ok());
  v1::RenderChatRequest render;
  *render.mutable_chat() = request.chat();
  grpc::ClientContext context;
  v1::RenderChatResponse rendered;
  ASSERT_TRUE(stub_->RenderChat(&context, render, &rendered).ok());
  EXPECT_NE(rendered.text().find("user<|end_header_id|>\n\nhi"), std::string::npos);
  MutexLock lock(leader_.mutex);
  EXPECT_EQ(std::vector<int32_t>(rendered.ids().begin(), rendered.ids().end()),
            std::vector<int32_t>(leader_.last.prompt().begin(), leader_.last.prompt().end()));
}

TEST_F(GatewayTest, AStopStringLetsTheEngineGo) {
  MakeLong();
  v1::GenerateRequest request = Prompt("Count");
  request.add_stop("three");
  const auto start = Steady::now();
  const Answer answer = Generate(request);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text, "one two ");
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_STOP);
  EXPECT_EQ(answer.finished.matched_stop(), "three");
  EXPECT_LT(Steady::now() - start, std::chrono::seconds(2));
  EXPECT_TRUE(Eventually([&] { return leader_.running == 0; }));
}

TEST_F(GatewayTest, AClientThatHangsUpFreesTheEngine) {
  MakeLong();
  grpc::ClientContext context;
  std::atomic<int> seen = 0;
  std::jthread client([&] { Generate(Prompt("x"), &context, &seen); });
  ASSERT_TRUE(Eventually([&] { return seen > 2; }));
  context.TryCancel();
  EXPECT_TRUE(Eventually([&] { return leader_.running == 0; }));
  EXPECT_TRUE(Eventually([&] {
    return metrics_.ValueOf(metric::kRequests, {"generate", "CANCELLED"}) == 1;
  }));
  EXPECT_GE(metrics_.ValueOf(metric::kDiscardedTokens, {"disconnect"}), 3);
  EXPECT_EQ(metrics_.ValueOf(metric::kDiscardedTokens, {"cancel"}), 0);
}

TEST_F(GatewayTest, AbortFinishesTheStreamAsCancelled) {
  MakeLong();
  v1::GenerateRequest request = Prompt("x");
  request.set_request_id("r1");
  std::atomic<int> seen = 0;
  Answer answer;
  std::jthread client([&] { answer = Generate(request, nullptr, &seen); });
  ASSERT_TRUE(Eventually([&] { return seen > 2; }));
  EXPECT_EQ(ReasonOf(Generate(request).status), Reason::kBadRequest);  // the id is in use
  v1::AbortRequest abort;
  abort.set_request_id("r1");
  v1::AbortResponse aborted;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Abort(&first, abort, &aborted).ok());
  EXPECT_TRUE(aborted.found());
  client.join();
  EXPECT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_CANCELLED);
  EXPECT_EQ(answer.finished.usage().completion_tokens(), answer.tokens.size());
  EXPECT_EQ(metrics_.ValueOf(metric::kDiscardedTokens, {"cancel"}), answer.tokens.size());
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Abort(&second, abort, &aborted).ok());
  EXPECT_FALSE(aborted.found());
}

TEST_F(GatewayTest, ADeadLeaderIsALostGroup) {
  ASSERT_TRUE(Generate(Prompt("x")).status.ok());
  leader_server_.reset();
  // It is said to serve all the while: asked again once, then given up.
  EXPECT_EQ(ReasonOf(Generate(Prompt("x")).status), Reason::kGroupLost);
}

TEST_F(GatewayTest, ErrorsOfTheEngineKeepTheirReason) {
  for (const Reason reason : {Reason::kQueueFull, Reason::kBadRequest, Reason::kNonFinite,
                              Reason::kOutOfMemory, Reason::kStateMismatch}) {
    leader_.failure = MakeError(reason, "because");
    const Answer answer = Generate(Prompt("x"));
    EXPECT_EQ(ReasonOf(answer.status), reason);
    EXPECT_NE(std::string(answer.status.message()).find("because"), std::string::npos);
  }
}

TEST_F(GatewayTest, ScoresTextAndIds) {
  v1::ScoreRequest request;
  request.set_text("one two three");
  request.set_want_digests(true);
  request.set_chunk(7);
  v1::ScoreResponse response;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Score(&first, request, &response).ok());
  const size_t count = text_.tokenizer->Encode("one two three", {})->size();
  EXPECT_EQ(response.tokens(), count - 1);
  EXPECT_EQ(static_cast<size_t>(response.logprobs_size()), count - 1);
  EXPECT_EQ(response.digests(0).low(), 7u);
  request.mutable_token_ids()->add_ids(1);
  request.mutable_token_ids()->add_ids(2);
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Score(&second, request, &response).ok());
  EXPECT_EQ(response.tokens(), 1u);
  EXPECT_DOUBLE_EQ(response.nll_sum(), 1.5);
}

TEST_F(GatewayTest, TokenizesAndDetokenizes) {
  v1::TokenizeRequest tokenize;
  tokenize.set_text("Grüße 🙂");
  v1::TokenizeResponse ids;
  grpc::ClientContext first;
  ASSERT_TRUE(stub_->Tokenize(&first, tokenize, &ids).ok());
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_ids() = ids.ids();
  detokenize.set_skip_special_tokens(true);
  v1::DetokenizeResponse text;
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Detokenize(&second, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "Grüße 🙂");
}

TEST_F(GatewayTest, ANewEpochFetchesNothingThatIsKnown) {
  ASSERT_TRUE(Generate(Prompt("x")).status.ok());
  const int sent = leader_.sent;
  EXPECT_GE(sent, 3);
  ASSERT_TRUE(Generate(Prompt("x")).status.ok());
  EXPECT_EQ(leader_.sent, sent);
  leader_.files["generation_config.json"] = R"({"eos_token_id": 9})";
  Put("ready", 2);
  ASSERT_TRUE(Generate(Prompt("x")).status.ok());
  MutexLock lock(leader_.mutex);
  ASSERT_EQ(leader_.last.stop_ids_size(), 1);
  EXPECT_EQ(leader_.last.stop_ids(0), 9);
}

TEST_F(GatewayTest, RefusesWithoutTokenModelOrTime) {
  auto stranger = v1::Inference::NewStub(MakeChannel(server_->address(), "wrong"));
  grpc::ClientContext context;
  v1::TokenizeResponse ids;
  EXPECT_EQ(ReasonOf(FromGrpc(stranger->Tokenize(&context, {}, &ids))), Reason::kUnauthenticated);
  v1::GenerateRequest other = Prompt("x");
  other.set_model("nobody");
  EXPECT_EQ(ReasonOf(Generate(other).status), Reason::kNotFound);
  MakeLong();
  grpc::ClientContext hurried;
  SetTimeout(hurried, milliseconds(300));  // enough for some tokens
  EXPECT_EQ(ReasonOf(Generate(Prompt("x"), &hurried).status), Reason::kDeadline);
  EXPECT_TRUE(
      Eventually([&] { return metrics_.ValueOf(metric::kDiscardedTokens, {"deadline"}) > 0; }));
  EXPECT_TRUE(Eventually([&] { return leader_.running == 0; }));
}

TEST_F(GatewayTest, StopEndsWhatIsRunning) {
  MakeLong();
  std::atomic<int> seen = 0;
  Answer answer;
  std::jthread client([&] { answer = Generate(Prompt("x"), nullptr, &seen); });
  ASSERT_TRUE(Eventually([&] { return seen > 2; }));
  gateway_.Stop();
  client.join();
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_CANCELLED);
  EXPECT_EQ(ReasonOf(Generate(Prompt("x")).status), Reason::kCancelled);
}

}  // namespace
}  // namespace octavo
