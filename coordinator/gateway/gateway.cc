#include "coordinator/gateway/gateway.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "coordinator/gateway/choices.h"
#include "coordinator/gateway/generation.h"
#include "coordinator/gateway/live_calls.h"
#include "coordinator/gateway/resumption.h"
#include "coordinator/gateway/text_cache.h"
#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/metrics/metrics.h"
#include "core/rpc/auth.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/channel.h"
#include "octavo/v1/service/engine.grpc.pb.h"
#include "octavo/v1/service/inference.grpc.pb.h"

namespace octavo {
namespace {

using Steady = std::chrono::steady_clock;
using CallPtr = std::shared_ptr<LiveCalls::Call>;

constexpr size_t kChannelsMax = 256;
constexpr std::chrono::milliseconds kLogTimeout{2'000};
constexpr std::chrono::milliseconds kHandoverPoll{20};

double SecondsSince(Steady::time_point start) {
  return std::chrono::duration<double>(Steady::now() - start).count();
}

}  // namespace

class Gateway::Impl final : public v1::Inference::Service {
 public:
  Impl(const ModelTable* models, Metrics* metrics, const std::string& token,
       const StreamPatience& patience)
      : models_(models),
        metrics_(metrics),
        token_(token),
        patience_(patience),
        guard_(token),
        texts_(token),
        calls_(models) {}

  void Stop() { calls_.Stop(); }

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override;
  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override;
  grpc::Status Compare(grpc::ServerContext* context, const v1::CompareRequest* request,
                       v1::Comparison* response) override;
  grpc::Status Tokenize(grpc::ServerContext* context, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override;
  grpc::Status Detokenize(grpc::ServerContext* context, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override;
  grpc::Status RenderChat(grpc::ServerContext* context, const v1::RenderChatRequest* request,
                          v1::RenderChatResponse* response) override;
  grpc::Status Abort(grpc::ServerContext* context, const v1::AbortRequest* request,
                     v1::AbortResponse* response) override;

 private:
  // Runs a handler between the checks and counts that all of them have in common. `body` returns a
  // status and may set the outcome to count instead of the status's.
  template <typename Body>
  grpc::Status Handle(const grpc::ServerContext& context, std::string_view method, Body body);

  // Runs body(model) for the group that serves `name`, again with the next one where a group takes
  // no more requests.
  template <typename Body>
  absl::Status OnGroup(const std::string& name, const grpc::ServerContext& context, Body body);

  absl::Status GenerateFor(LiveCalls::Call& call, const grpc::ServerContext& context,
                           const v1::GenerateRequest& asked,
                           grpc::ServerWriter<v1::GenerateResponse>& writer,
                           std::string_view& outcome);
  absl::Status GenerateOn(const v1::ModelInfo& model, LiveCalls::Call& call,
                          const grpc::ServerContext& context, const v1::GenerateRequest& request,
                          const std::optional<Resumption>& earlier,
                          grpc::ServerWriter<v1::GenerateResponse>& writer,
                          std::string_view& outcome);
  // What the client that asks for the rest of a request has to be answered.
  absl::StatusOr<Resumption> Remember(const v1::GenerateRequest& request);
  absl::Status ScoreOn(const v1::ModelInfo& model, LiveCalls::Call& call,
                       const grpc::ServerContext& context, const v1::ScoreRequest& request,
                       v1::ScoreResponse& response);
  absl::Status CompareFor(LiveCalls::Call& call, const grpc::ServerContext& context,
                          const v1::CompareRequest& request, v1::Comparison& response);

  absl::StatusOr<std::shared_ptr<const TextBundle>> TextOf(const std::string& model) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::ModelInfo info, models_->Route(model));
    return texts_.Get(info);
  }
  std::shared_ptr<v1::Engine::Stub> EngineAt(const std::string& address);
  // Of the model's group now; kNotReady while it forms, kGroupLost where it failed.
  absl::StatusOr<Choices::Leader> LeaderOf(const std::string& model);

  const ModelTable* const models_;
  Metrics* const metrics_;
  const std::string token_;
  const StreamPatience patience_;
  const CallGuard guard_;
  TextCache texts_;
  Mutex mutex_;
  std::map<std::string, std::shared_ptr<v1::Engine::Stub>> engines_ OCTAVO_GUARDED_BY(mutex_);
  const Steady::time_point start_ = Steady::now();
  LiveCalls calls_;
};

template <typename Body>
grpc::Status Gateway::Impl::Handle(const grpc::ServerContext& context, std::string_view method,
                                   Body body) {
  if (grpc::Status refused = guard_.Check(context); !refused.ok()) {
    metrics_->Add(metric::kRequests, 1, {method, InfoOf(Reason::kUnauthenticated).name});
    return refused;
  }
  const auto start = Steady::now();
  std::string_view outcome = "ok";
  const absl::Status status = body(outcome);
  if (!status.ok()) outcome = InfoOf(ReasonOf(status)).name;
  metrics_->Add(metric::kRequests, 1, {method, outcome});
  metrics_->Observe(metric::kRequestSeconds, SecondsSince(start), {method});
  metrics_->Set(metric::kRequestsRunning, static_cast<double>(calls_.size()));
  return ToGrpc(status);
}

template <typename Body>
absl::Status Gateway::Impl::OnGroup(const std::string& name, const grpc::ServerContext& context,
                                    Body body) {
  auto refused_since = Steady::now();
  while (true) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::ModelInfo model, models_->Route(name));
    const auto asked = Steady::now();
    const absl::Status status = body(model);
    if (status.ok() || ReasonOf(status) != Reason::kNotReady || context.IsCancelled()) {
      return status;
    }
    if (Steady::now() - asked > patience_.handover) refused_since = asked;  // that was no refusal
    if (asked - refused_since > patience_.handover) return status;
    std::this_thread::sleep_for(kHandoverPoll);
  }
}

std::shared_ptr<v1::Engine::Stub> Gateway::Impl::EngineAt(const std::string& address) {
  MutexLock lock(mutex_);
  if (engines_.size() > kChannelsMax) engines_.clear();
  std::shared_ptr<v1::Engine::Stub>& stub = engines_[address];
  if (stub == nullptr) stub = v1::Engine::NewStub(MakeChannel(address, token_));
  return stub;
}

absl::StatusOr<Choices::Leader> Gateway::Impl::LeaderOf(const std::string& model) {
  const absl::StatusOr<v1::ModelInfo> info = models_->Find(model);
  if (!info.ok()) return MakeError(Reason::kGroupLost, "the model was unloaded");
  if (info->state() == "failed") return MakeError(Reason::kGroupLost, info->failure().message());
  OCTAVO_ASSIGN_OR_RETURN(v1::ModelInfo ready, models_->Route(model));
  std::shared_ptr<v1::Engine::Stub> engine = EngineAt(ready.leader_address());
  return Choices::Leader{std::move(engine), std::move(ready)};
}

grpc::Status Gateway::Impl::Generate(grpc::ServerContext* context,
                                     const v1::GenerateRequest* request,
                                     grpc::ServerWriter<v1::GenerateResponse>* writer) {
  return Handle(*context, "generate", [&](std::string_view& outcome) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const bool resumes, IsResumption(*request));
    OCTAVO_ASSIGN_OR_RETURN(const CallPtr call,
                            resumes ? calls_.TakeOver(request->request_id(), context)
                                    : calls_.Begin(request->request_id(), context));
    metrics_->Set(metric::kRequestsRunning, static_cast<double>(calls_.size()));
    const absl::Status status = GenerateFor(*call, *context, *request, *writer, outcome);
    calls_.End(*call);
    return status;
  });
}

absl::StatusOr<Resumption> Gateway::Impl::Remember(const v1::GenerateRequest& request) {
  std::vector<std::shared_ptr<v1::Engine::Stub>> workers;
  for (const std::string& address : models_->Workers()) workers.push_back(EngineAt(address));
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<v1::LoggedRequest> logs,
                          AskForLog(workers, request.request_id(), kLogTimeout));
  absl::StatusOr<Resumption> found = ChooseLog(logs, request);
  if (!found.ok() && ReasonOf(found.status()) == Reason::kNotFound &&
      Steady::now() - start_ < patience_.attach) {
    return MakeError(Reason::kNotReady, "workers may still be attaching, one of which remembers it",
                     {}, "try again");
  }
  return found;
}

absl::Status Gateway::Impl::GenerateFor(LiveCalls::Call& call, const grpc::ServerContext& context,
                                        const v1::GenerateRequest& asked,
                                        grpc::ServerWriter<v1::GenerateResponse>& writer,
                                        std::string_view& outcome) {
  std::optional<Resumption> earlier;
  if (!asked.from_index().empty()) {
    OCTAVO_ASSIGN_OR_RETURN(earlier, Remember(asked));
  }
  const v1::GenerateRequest& request = earlier.has_value() ? earlier->request : asked;
  return OnGroup(request.model(), context, [&](const v1::ModelInfo& model) {
    return GenerateOn(model, call, context, request, earlier, writer, outcome);
  });
}

absl::Status Gateway::Impl::GenerateOn(const v1::ModelInfo& model, LiveCalls::Call& call,
                                       const grpc::ServerContext& context,
                                       const v1::GenerateRequest& request,
                                       const std::optional<Resumption>& earlier,
                                       grpc::ServerWriter<v1::GenerateResponse>& writer,
                                       std::string_view& outcome) {
  if (earlier.has_value() && earlier->model_dir != model.model_dir()) {
    return MakeError(Reason::kNotFound,
                     fmt::format("request '{}' was to another checkpoint", request.request_id()));
  }
  Choices choices({.calls = calls_,
                   .call = call,
                   .client = context,
                   .writer = writer,
                   .metrics = *metrics_,
                   .find_leader = [this, &model] { return LeaderOf(model.model_id()); },
                   .patience = patience_});
  OCTAVO_ASSIGN_OR_RETURN(const std::shared_ptr<const TextBundle> text, texts_.Get(model));
  OCTAVO_ASSIGN_OR_RETURN(v1::EngineRequest engine, BuildEngineRequest(request, *text));
  engine.set_request_id(call.id);
  engine.set_note(earlier.has_value() ? earlier->note
                                      : NoteOf(request, model, engine.sampling().seed()));
  for (uint32_t i = 0; i < std::max(request.n(), 1u); ++i) {
    OCTAVO_ASSIGN_OR_RETURN(Assembler assembler, Assembler::Create(request, *text));
    choices.Add(ChoiceOf(engine, i), std::move(assembler),
                earlier.has_value() ? PastOf(*earlier, i) : Choices::Past());
  }
  const absl::Status status = choices.Run({EngineAt(model.leader_address()), model});
  if (!status.ok() && ReasonOf(status) == Reason::kNotReady) return status;
  if (earlier.has_value()) {
    metrics_->Add(metric::kStreamsResumed);
  } else {
    metrics_->Add(metric::kPromptTokens, engine.prompt_size());
    metrics_->Observe(metric::kRequestPromptTokens, engine.prompt_size());
  }
  metrics_->Observe(metric::kRequestGenerationTokens, choices.tokens());
  OCTAVO_RETURN_IF_ERROR(status);
  outcome = FinishName(choices.finish());
  return absl::OkStatus();
}

grpc::Status Gateway::Impl::Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) {
  return Handle(*context, "score", [&](std::string_view&) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const CallPtr call, calls_.Begin("", context));
    metrics_->Set(metric::kRequestsRunning, static_cast<double>(calls_.size()));
    const absl::Status status =
        OnGroup(request->model(), *context, [&](const v1::ModelInfo& model) {
          return ScoreOn(model, *call, *context, *request, *response);
        });
    calls_.End(*call);
    return status;
  });
}

absl::Status Gateway::Impl::ScoreOn(const v1::ModelInfo& model, LiveCalls::Call& call,
                                    const grpc::ServerContext& context,
                                    const v1::ScoreRequest& request, v1::ScoreResponse& response) {
  v1::EngineScoreRequest engine;
  engine.set_request_id(call.id);
  engine.set_group_epoch(model.group_epoch());
  engine.set_want_digests(request.want_digests());
  engine.set_chunk(request.chunk());
  if (request.input_case() == v1::ScoreRequest::kTokenIds) {
    *engine.mutable_ids() = request.token_ids().ids();
  } else if (request.input_case() == v1::ScoreRequest::kText) {
    OCTAVO_ASSIGN_OR_RETURN(const auto text, texts_.Get(model));
    OCTAVO_ASSIGN_OR_RETURN(const auto ids, text->tokenizer->Encode(request.text(), {}));
    engine.mutable_ids()->Add(ids.begin(), ids.end());
  } else {
    return MakeError(Reason::kBadRequest, "the request has no input", {}, "set text or token_ids");
  }
  const std::shared_ptr<v1::Engine::Stub> leader = EngineAt(model.leader_address());
  grpc::ClientContext client;
  client.set_deadline(context.deadline());
  calls_.Open(call, model, &client);
  v1::EngineScoreResponse scored;
  const grpc::Status status = leader->Score(&client, engine, &scored);
  const absl::Status ended = calls_.Close(call);
  OCTAVO_RETURN_IF_ERROR(ended);
  OCTAVO_RETURN_IF_ERROR(LeaderStatus(status));
  metrics_->Add(metric::kPromptTokens, engine.ids_size());
  response.set_tokens(static_cast<uint32_t>(scored.logprobs_size()));
  response.set_nll_sum(scored.nll_sum());
  response.mutable_logprobs()->Swap(scored.mutable_logprobs());
  response.mutable_digests()->Swap(scored.mutable_digests());
  return absl::OkStatus();
}

grpc::Status Gateway::Impl::Compare(grpc::ServerContext* context, const v1::CompareRequest* request,
                                    v1::Comparison* response) {
  return Handle(*context, "compare", [&](std::string_view&) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const CallPtr call, calls_.Begin("", context));
    const absl::Status status = CompareFor(*call, *context, *request, *response);
    calls_.End(*call);
    return status;
  });
}

absl::Status Gateway::Impl::CompareFor(LiveCalls::Call& call, const grpc::ServerContext& context,
                                       const v1::CompareRequest& request,
                                       v1::Comparison& response) {
  OCTAVO_ASSIGN_OR_RETURN(const v1::ModelInfo model, models_->Route(request.model()));
  OCTAVO_ASSIGN_OR_RETURN(const v1::ModelInfo reference, models_->Route(request.reference()));
  if (model.model_id() == reference.model_id()) {
    return MakeError(Reason::kBadRequest, "a model cannot be compared with itself", {},
                     "load it again under another name");
  }
  v1::EngineCompareRequest engine;
  engine.set_request_id(call.id);
  *engine.mutable_ids() = request.token_ids().ids();
  engine.set_group_epoch(model.group_epoch());
  engine.set_reference_address(reference.leader_address());
  engine.set_reference_epoch(reference.group_epoch());
  // Two comparisons never wait for each other: everyone asks the same model of a pair first.
  engine.set_reference_first(reference.model_id() < model.model_id());
  engine.set_layers(request.layers());
  metrics_->Add(metric::kPromptTokens, engine.ids_size());
  grpc::ClientContext client;
  client.set_deadline(context.deadline());
  calls_.Open(call, model, &client);
  const grpc::Status status = EngineAt(model.leader_address())->Compare(&client, engine, &response);
  const absl::Status ended = calls_.Close(call);
  OCTAVO_RETURN_IF_ERROR(ended);
  return LeaderStatus(status);
}

grpc::Status Gateway::Impl::Tokenize(grpc::ServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) {
  return Handle(*context, "tokenize", [&](std::string_view&) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const auto text, TextOf(request->model()));
    OCTAVO_ASSIGN_OR_RETURN(
        const std::vector<int32_t> ids,
        text->tokenizer->Encode(request->text(),
                                {.add_special_tokens = !request->omit_special_tokens()}));
    response->mutable_ids()->Add(ids.begin(), ids.end());
    return absl::OkStatus();
  });
}

grpc::Status Gateway::Impl::Detokenize(grpc::ServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) {
  return Handle(*context, "detokenize", [&](std::string_view&) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const auto text, TextOf(request->model()));
    const std::vector<int32_t> ids(request->ids().begin(), request->ids().end());
    response->set_text(text->tokenizer->Decode(ids, request->skip_special_tokens()));
    return absl::OkStatus();
  });
}

grpc::Status Gateway::Impl::RenderChat(grpc::ServerContext* context,
                                       const v1::RenderChatRequest* request,
                                       v1::RenderChatResponse* response) {
  return Handle(*context, "render_chat", [&](std::string_view&) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const auto text, TextOf(request->model()));
    OCTAVO_ASSIGN_OR_RETURN(const std::string prompt, octavo::RenderChat(request->chat(), *text));
    OCTAVO_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                            text->tokenizer->Encode(prompt, {.add_special_tokens = false}));
    response->set_text(prompt);
    response->mutable_ids()->Add(ids.begin(), ids.end());
    return absl::OkStatus();
  });
}

grpc::Status Gateway::Impl::Abort(grpc::ServerContext* context, const v1::AbortRequest* request,
                                  v1::AbortResponse* response) {
  return Handle(*context, "abort", [&](std::string_view&) {
    response->set_found(calls_.Abort(request->request_id()));
    return absl::OkStatus();
  });
}

Gateway::Gateway(const ModelTable* models, Metrics* metrics, const std::string& token,
                 const StreamPatience& patience)
    : impl_(std::make_unique<Impl>(models, metrics, token, patience)) {}
Gateway::~Gateway() = default;

grpc::Service* Gateway::service() { return impl_.get(); }

void Gateway::Stop() { impl_->Stop(); }

}  // namespace octavo
