// Streams that outlive their group.

#include "tests/coordinator/gateway/gateway_fixture.h"

namespace octavo {
namespace {

class ResumeTest : public GatewayTest {
 protected:
  ResumeTest() { MakeLong(); }

  // Runs `request` and, once `tokens` tokens have come, `then`.
  template <typename Then>
  Answer Disturb(const v1::GenerateRequest& request, int tokens, Then then,
                 grpc::ClientContext* context = nullptr) {
    std::atomic<int> seen = 0;
    Answer answer;
    std::jthread client([&] { answer = Generate(request, context, &seen); });
    EXPECT_TRUE(Eventually([&] { return seen >= tokens; }));
    then();
    client.join();
    EXPECT_EQ(leader_.wrong_outputs, 0);
    return answer;
  }

  void Shorten(size_t tokens) { leader_.answer.resize(tokens); }
  double resumed() { return metrics_.ValueOf(metric::kStreamsResumed); }
};

std::vector<int32_t> IdsOf(const std::vector<v1::EngineToken>& tokens) {
  std::vector<int32_t> ids;
  for (const v1::EngineToken& token : tokens) ids.push_back(token.id());
  return ids;
}

TEST_F(ResumeTest, AStreamGoesOnWithTheGroupThatFormsNext) {
  Shorten(60);
  v1::GenerateRequest request = Prompt("Count with me");
  const Answer undisturbed = Generate(request);
  ASSERT_TRUE(undisturbed.status.ok());
  EXPECT_EQ(IdsOf(undisturbed.tokens), leader_.answer);
  const Answer answer = Disturb(request, 3, [&] {
    Put("reforming", 1);
    EXPECT_TRUE(Eventually([&] { return leader_.running == 0; }));
    std::this_thread::sleep_for(milliseconds(100));
    EXPECT_EQ(leader_.running, 0);
    EXPECT_EQ(metrics_.ValueOf(metric::kRequestsAwaitGroup), 1);
    Put("ready", 2);
  });
  EXPECT_EQ(metrics_.ValueOf(metric::kRequestsAwaitGroup), 0);
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.text, undisturbed.text);
  EXPECT_EQ(IdsOf(answer.tokens), leader_.answer);
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_LENGTH);
  EXPECT_EQ(answer.finished.usage().completion_tokens(), 60u);
  EXPECT_EQ(resumed(), 1);
  MutexLock lock(leader_.mutex);
  EXPECT_GE(leader_.last.output_size(), 3);
  EXPECT_LT(leader_.last.output_size(), 60);
}

TEST_F(ResumeTest, EveryChoiceGoesOnAndThePromptIsToldOnce) {
  Shorten(40);
  v1::GenerateRequest request = Prompt("Count with me");
  request.set_n(3);
  request.set_seed(5);
  request.set_prompt_logprobs(true);
  std::map<uint32_t, std::vector<int32_t>> tokens;
  std::atomic<int> seen = 0;
  int prompt = 0, finished = 0;
  absl::Status status;
  std::jthread client([&] {
    grpc::ClientContext context;
    auto reader = stub_->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      finished += response.has_finished() ? 1 : 0;
      prompt += response.delta().prompt_tokens_size();
      for (const auto& token : response.delta().tokens()) {
        tokens[response.delta().index()].push_back(token.id());
        ++seen;
      }
    }
    status = FromGrpc(reader->Finish());
  });
  ASSERT_TRUE(Eventually([&] { return seen >= 12; }));
  Put("ready", 2);  // another group at once
  client.join();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(finished, 3);
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(tokens[i], leader_.answer) << i;
  EXPECT_EQ(prompt + 1, std::ssize(*text_.tokenizer->Encode("Count with me", {})));
  EXPECT_EQ(leader_.wrong_outputs, 0);
}

TEST_F(ResumeTest, AGroupThatFailedEndsTheStream) {
  const auto start = Steady::now();
  const Answer answer = Disturb(Prompt("x"), 3, [&] {
    Put("reforming", 1);
    Put("failed", 1);
  });
  EXPECT_EQ(ReasonOf(answer.status), Reason::kGroupLost) << answer.status;
  EXPECT_LT(Steady::now() - start, std::chrono::seconds(2));
  EXPECT_EQ(resumed(), 0);
}

TEST_F(ResumeTest, AnUnloadedModelEndsTheStream) {
  const Answer answer = Disturb(Prompt("x"), 3, [&] { models_.Remove("m"); });
  EXPECT_EQ(ReasonOf(answer.status), Reason::kGroupLost) << answer.status;
}

TEST_F(ResumeTest, AnotherCheckpointOfTheSameNameIsNoSuccessor) {
  const Answer answer = Disturb(Prompt("x"), 3, [&] {
    v1::ModelInfo model = *models_.Find("m");
    model.set_group_epoch(2);
    model.set_model_dir("/elsewhere");
    models_.Put(model);
  });
  EXPECT_EQ(ReasonOf(answer.status), Reason::kGroupLost) << answer.status;
}

TEST_F(ResumeTest, AClientHearsBeforeItsDeadlineThatNoGroupCame) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(600));
  const auto start = Steady::now();
  const Answer answer = Disturb(
      Prompt("x"), 3, [&] { Put("reforming", 1); }, &context);
  EXPECT_EQ(ReasonOf(answer.status), Reason::kGroupLost) << answer.status;
  EXPECT_LT(Steady::now() - start, milliseconds(600));
}

TEST_F(ResumeTest, AbortedWhileNoGroupIsThere) {
  v1::GenerateRequest request = Prompt("x");
  request.set_request_id("mine");
  const Answer answer = Disturb(request, 3, [&] {
    Put("reforming", 1);
    EXPECT_TRUE(Eventually([&] { return leader_.running == 0; }));
    v1::AbortRequest abort;
    abort.set_request_id("mine");
    v1::AbortResponse aborted;
    grpc::ClientContext context;
    EXPECT_TRUE(stub_->Abort(&context, abort, &aborted).ok());
    EXPECT_TRUE(aborted.found());
  });
  ASSERT_TRUE(answer.status.ok()) << answer.status;
  EXPECT_EQ(answer.finished.reason(), v1::FINISH_CANCELLED);
  EXPECT_EQ(answer.finished.usage().completion_tokens(), answer.tokens.size());
}

TEST_F(ResumeTest, ANewRequestHearsThatTheGroupForms) {
  Put("reforming", 1);
  EXPECT_EQ(ReasonOf(Generate(Prompt("x")).status), Reason::kNotReady);
}

}  // namespace
}  // namespace octavo
