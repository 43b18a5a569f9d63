// Several choices of one request.

#include "coordinator/gateway/choices.h"

#include "tests/coordinator/gateway/gateway_fixture.h"

namespace octavo {
namespace {

using ChoicesTest = GatewayTest;

// What the client gets of a request, by choice.
struct Told {
  std::map<uint32_t, std::string> texts;
  std::map<uint32_t, v1::Finished> finished;
  std::vector<int32_t> prompt;
  bool prompt_late = false;
  absl::Status status;
};
Told Hear(v1::Inference::Stub& stub, const v1::GenerateRequest& request,
          std::atomic<int>* seen = nullptr) {
  grpc::ClientContext context;
  auto reader = stub.Generate(&context, request);
  Told told;
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (response.has_finished()) told.finished[response.finished().index()] = response.finished();
    if (!response.has_delta()) continue;
    if (seen != nullptr) ++*seen;
    const v1::Delta& delta = response.delta();
    told.prompt_late |= delta.prompt_tokens_size() > 0 && !told.texts[0].empty();
    for (const auto& token : delta.prompt_tokens()) told.prompt.push_back(token.id());
    told.texts[delta.index()] += delta.text();
  }
  told.status = FromGrpc(reader->Finish());
  return told;
}

TEST_F(ChoicesTest, ChoicesShareAStreamAndHaveSeedsOfTheirOwn) {
  v1::GenerateRequest request = Prompt("Count with me");
  request.set_n(5);
  request.set_seed(77);
  request.set_prompt_logprobs(true);
  const Told told = Hear(*stub_, request);
  ASSERT_TRUE(told.status.ok()) << told.status;
  ASSERT_EQ(told.finished.size(), 5u);
  const std::vector<int32_t> prompt = *text_.tokenizer->Encode("Count with me", {});
  uint32_t prompt_tokens = 0;
  for (uint32_t i = 0; i < 5; ++i) {
    EXPECT_EQ(told.texts.at(i), "one two three four five");
    EXPECT_EQ(told.finished.at(i).seed(), 77 + i);
    EXPECT_EQ(told.finished.at(i).reason(), v1::FINISH_LENGTH);
    EXPECT_EQ(told.finished.at(i).usage().completion_tokens(), leader_.answer.size());
    prompt_tokens += told.finished.at(i).usage().prompt_tokens();
  }
  EXPECT_EQ(prompt_tokens, prompt.size());
  EXPECT_EQ(told.prompt, (std::vector<int32_t>{prompt.begin() + 1, prompt.end()}));
  EXPECT_FALSE(told.prompt_late);
  EXPECT_EQ(metrics_.ValueOf(metric::kGenerationTokens),
            static_cast<double>(5 * leader_.answer.size()));
  EXPECT_EQ(metrics_.ValueOf(metric::kPromptTokens), static_cast<double>(prompt.size()));
  request.set_n(17);
  EXPECT_EQ(ReasonOf(Hear(*stub_, request).status), Reason::kBadRequest);
}

TEST_F(ChoicesTest, AStopStringOfOneChoiceLeavesTheOthers) {
  v1::GenerateRequest request = Prompt("x");
  request.set_n(3);
  request.add_stop("three");
  const Told told = Hear(*stub_, request);
  ASSERT_TRUE(told.status.ok()) << told.status;
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(told.texts.at(i), "one two ");
    EXPECT_EQ(told.finished.at(i).matched_stop(), "three");
  }
  EXPECT_TRUE(Eventually([&] { return leader_.running == 0; }));
}

TEST_F(ChoicesTest, AChoiceThatFailsEndsTheRequestAndTheOthers) {
  MakeLong();
  leader_.failing_seed = 12;
  v1::GenerateRequest request = Prompt("x");
  request.set_n(4);
  request.set_seed(10);
  const auto start = Steady::now();
  EXPECT_EQ(ReasonOf(Hear(*stub_, request).status), Reason::kIo);
  EXPECT_LT(Steady::now() - start, std::chrono::seconds(2));
  EXPECT_TRUE(Eventually([&] { return leader_.running == 0; }));
}

TEST_F(ChoicesTest, AbortFinishesEveryChoice) {
  MakeLong();
  v1::GenerateRequest request = Prompt("x");
  request.set_request_id("many");
  request.set_n(3);
  std::atomic<int> seen = 0;
  Told told;
  std::jthread client([&] { told = Hear(*stub_, request, &seen); });
  ASSERT_TRUE(Eventually([&] { return seen > 6; }));
  v1::AbortRequest abort;
  abort.set_request_id("many");
  v1::AbortResponse aborted;
  grpc::ClientContext context;
  ASSERT_TRUE(stub_->Abort(&context, abort, &aborted).ok());
  client.join();
  EXPECT_TRUE(told.status.ok()) << told.status;
  ASSERT_EQ(told.finished.size(), 3u);
  for (const auto& [index, finished] : told.finished) {
    EXPECT_EQ(finished.reason(), v1::FINISH_CANCELLED);
  }
  EXPECT_TRUE(Eventually([&] { return leader_.running == 0; }));
}

}  // namespace
}  // namespace octavo
