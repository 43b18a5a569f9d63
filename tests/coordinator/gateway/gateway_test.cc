// The gateway as clients see it, over real connections, before a leader that says what it is told.

#include "coordinator/gateway/gateway.h"

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/metrics/metrics.h"
#include "core/rpc/auth.h"
#include "core/rpc/channel.h"
#include "core/rpc/server.h"
#include "core/rpc/status.h"
#include "core/text/text_bundle.h"
#include "grpcpp/channel.h"
#include "octavo/v1/service/engine.grpc.pb.h"
#include "octavo/v1/service/inference.grpc.pb.h"
#include "tests/core/text/golden.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using Steady = std::chrono::steady_clock;

template <typename Condition>
bool Eventually(Condition condition) {
  for (int i = 0; i < 2500; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(2));
  }
  return false;
}

class FakeLeader final : public v1::Engine::Service {
 public:
  grpc::Status Generate(grpc::ServerContext* context, const v1::EngineRequest* request,
                        grpc::ServerWriter<v1::EngineEvent>* writer) override {
    if (grpc::Status refused = guard.Check(*context); !refused.ok()) return refused;
    {
      MutexLock lock(mutex);
      last = *request;
    }
    ++running;
    const grpc::Status status = Speak(*context, *request, *writer);
    --running;
    return status;
  }

  grpc::Status Score(grpc::ServerContext*, const v1::EngineScoreRequest* request,
                     v1::EngineScoreResponse* response) override {
    for (int i = 0; i + 1 < request->ids_size(); ++i) response->add_logprobs(-1.5f);
    if (request->want_digests()) response->add_digests()->set_low(request->chunk());
    response->set_nll_sum(1.5 * (request->ids_size() - 1));
    return grpc::Status::OK;
  }

  grpc::Status GetArtifact(grpc::ServerContext*, const v1::GetArtifactRequest* request,
                           grpc::ServerWriter<v1::ArtifactChunk>* writer) override {
    const auto it = files.find(request->name());
    if (it == files.end()) return ToGrpc(MakeError(Reason::kInputMissing, "no such file"));
    v1::ArtifactChunk chunk;
    chunk.mutable_digest()->set_low(DigestOf(it->second).low);
    chunk.mutable_digest()->set_high(DigestOf(it->second).high);
    chunk.set_size(it->second.size());
    if (!writer->Write(chunk)) return grpc::Status::OK;
    chunk.Clear();
    chunk.set_data(it->second);
    writer->Write(chunk);
    ++sent;
    return grpc::Status::OK;
  }

  CallGuard guard{"t"};
  Mutex mutex;
  v1::EngineRequest last;
  std::map<std::string, std::string> files;
  std::vector<int32_t> answer;
  v1::FinishReason finish = v1::FINISH_LENGTH;
  std::atomic<int> delay_ms = 0;
  std::atomic<int> running = 0;
  std::atomic<int> sent = 0;
  absl::Status failure;

 private:
  grpc::Status Speak(const grpc::ServerContext& context, const v1::EngineRequest& request,
                     grpc::ServerWriter<v1::EngineEvent>& writer) {
    if (!failure.ok()) return ToGrpc(failure);
    for (size_t i = 0; i < answer.size(); ++i) {
      if (context.IsCancelled()) return grpc::Status::CANCELLED;
      v1::EngineEvent event;
      v1::EngineToken& token = *event.add_tokens();
      token.set_id(answer[i]);
      if (request.want_logprob()) token.set_logprob(-0.5f);
      if (i + 1 == answer.size()) {
        event.set_finish(finish);
        event.set_stop_id(finish == v1::FINISH_STOP ? answer[i] : -1);
      }
      if (!writer.Write(event)) return grpc::Status::CANCELLED;
      std::this_thread::sleep_for(milliseconds(delay_ms));
    }
    return grpc::Status::OK;
  }
};

class GatewayTest : public ::testing::Test {
 protected:
  GatewayTest() {
    leader_.files["tokenizer.json"] = ReadGolden("llama3.tokenizer.json");
    leader_.files["tokenizer_config.json"] =
        R"({"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"})";
    for (const auto& c : ReadGoldenLines("chat.jsonl")) {
      if (c["name"] == "llama3") {
        leader_.files["chat_template.jinja"] = c["template"].get<std::string>();
      }
    }
    text_ = *LoadTextBundle({.tokenizer_json = leader_.files["tokenizer.json"],
                             .tokenizer_config_json = leader_.files["tokenizer_config.json"],
                             .chat_template_jinja = leader_.files["chat_template.jinja"],
                             .generation_config_json = {},
                             .config_json = {}});
    grpc::Service* engine[] = {&leader_};
    leader_server_ = *RpcServer::Start({}, engine);
    grpc::Service* inference[] = {gateway_.service()};
    server_ = *RpcServer::Start({}, inference);
    stub_ = v1::Inference::NewStub(MakeChannel(server_->address(), "t"));
    Put("ready", 1);
    leader_.answer = Ids("one two three four five");
  }

  void Put(const std::string& state, uint64_t epoch) {
    v1::ModelInfo model;
    model.set_model_id("m");
    model.set_state(state);
    model.set_group_epoch(epoch);
    model.set_leader_address(leader_server_->address());
    models_.Put(model);
  }

  std::vector<int32_t> Ids(const std::string& text) {
    return *text_.tokenizer->Encode(text, {.add_special_tokens = false});
  }

  struct Answer {
    std::string text;
    std::vector<v1::EngineToken> tokens;
    v1::Finished finished;
    absl::Status status;
  };
  Answer Generate(const v1::GenerateRequest& request, grpc::ClientContext* context = nullptr,
                  std::atomic<int>* seen = nullptr) {
    grpc::ClientContext own;
    auto reader = stub_->Generate(context != nullptr ? context : &own, request);
    Answer answer;
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
      if (response.has_finished()) answer.finished = response.finished();
      answer.text += response.delta().text();
      for (const auto& token : response.delta().tokens()) answer.tokens.push_back(token);
      if (seen != nullptr) *seen = static_cast<int>(answer.tokens.size());
    }
    answer.status = FromGrpc(reader->Finish());
    return answer;
  }

  static v1::GenerateRequest Prompt(const std::string& prompt) {
    v1::GenerateRequest request;
    request.set_prompt(prompt);
    return request;
  }

  void MakeLong() {
    const std::vector<int32_t> once = leader_.answer;
    for (int i = 0; i < 400; ++i) {
      leader_.answer.insert(leader_.answer.end(), once.begin(), once.end());
    }
    leader_.delay_ms = 5;
  }

  TextBundle text_;
  ModelTable models_;
  Metrics metrics_{MetricHome::kCoordinator, "coordinator"};
  FakeLeader leader_;
  std::unique_ptr<RpcServer> leader_server_;
  Gateway gateway_{&models_, &metrics_, "t"};
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

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
  grpc::ClientContext second;
  ASSERT_TRUE(stub_->Abort(&second, abort, &aborted).ok());
  EXPECT_FALSE(aborted.found());
}

TEST_F(GatewayTest, AGroupThatFormsAgainFailsTheRequestAtOnce) {
  MakeLong();
  std::atomic<int> seen = 0;
  Answer answer;
  std::jthread client([&] { answer = Generate(Prompt("x"), nullptr, &seen); });
  ASSERT_TRUE(Eventually([&] { return seen > 2; }));
  const auto start = Steady::now();
  Put("reforming", 1);
  client.join();
  EXPECT_LT(Steady::now() - start, milliseconds(1000));
  EXPECT_EQ(ReasonOf(answer.status), Reason::kGroupLost);
  EXPECT_EQ(ReasonOf(Generate(Prompt("x")).status), Reason::kNotReady);
}

TEST_F(GatewayTest, ADeadLeaderIsALostGroup) {
  ASSERT_TRUE(Generate(Prompt("x")).status.ok());
  leader_server_.reset();
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
  SetTimeout(hurried, milliseconds(60));
  EXPECT_EQ(ReasonOf(Generate(Prompt("x"), &hurried).status), Reason::kDeadline);
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
