#pragma once

// A gateway over real connections, before a leader that says what it is told.

#include <atomic>
#include <chrono>
#include <map>
#include <thread>

#include "coordinator/gateway/gateway.h"
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
#include "tests/fakes/eventually.h"

namespace octavo {

using std::chrono::milliseconds;
using Steady = std::chrono::steady_clock;

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

  grpc::Status GetTokenLog(grpc::ServerContext*, const v1::GetTokenLogRequest* request,
                           v1::LoggedRequest* response) override {
    MutexLock lock(mutex);
    if (!logs.contains(request->request_id())) return ToGrpc(MakeError(Reason::kNotFound, "none"));
    *response = logs[request->request_id()];
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
  std::map<std::string, v1::LoggedRequest> logs;  // by request id
  std::map<std::string, std::string> files;
  std::vector<int32_t> answer;
  v1::FinishReason finish = v1::FINISH_LENGTH;
  std::atomic<int> delay_ms = 0;
  std::atomic<int> running = 0;
  std::atomic<int> sent = 0;
  std::atomic<int> wrong_outputs = 0;  // that were said to be out and were not answered so
  absl::Status failure;
  uint64_t failing_seed = 1;
  std::atomic<uint64_t> refusing = 0;  // the epoch of a group that takes no more requests
  std::atomic<uint64_t> silent = 0;    // of one that takes them and says nothing

 private:
  grpc::Status Speak(const grpc::ServerContext& context, const v1::EngineRequest& request,
                     grpc::ServerWriter<v1::EngineEvent>& writer) {
    if (!failure.ok()) return ToGrpc(failure);
    if (request.group_epoch() == refusing) return ToGrpc(MakeError(Reason::kNotReady, "no more"));
    while (request.group_epoch() == silent && !context.IsCancelled()) {
      std::this_thread::sleep_for(milliseconds(1));
    }
    if (request.sampling().seed() == failing_seed) return ToGrpc(MakeError(Reason::kIo, "no"));
    v1::EngineEvent prompt;
    for (int i = 1; request.prompt_logprobs() && i < request.prompt_size(); ++i) {
      prompt.add_prompt()->set_id(request.prompt(i));
    }
    if (prompt.prompt_size() > 0 && !writer.Write(prompt)) return grpc::Status::CANCELLED;
    const auto out = static_cast<size_t>(request.output_size());
    for (size_t i = 0; i < out; ++i) {
      if (request.output(static_cast<int>(i)) != answer[i]) ++wrong_outputs;
    }
    for (size_t i = out; i < answer.size(); ++i) {
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

  void Put(const std::string& state, uint64_t epoch, const std::string& dir = "") {
    v1::ModelInfo model;
    model.set_model_id("m");
    model.set_model_dir(dir);
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
  Gateway gateway_{&models_,
                   &metrics_,
                   "t",
                   {.group = std::chrono::seconds(2), .same_group = std::chrono::seconds(1)}};
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

}  // namespace octavo
