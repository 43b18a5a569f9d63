#include "worker/service/engine_service.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <utility>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/rpc/auth.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "octavo/v1/service/engine.grpc.pb.h"
#include "worker/serve/token_log.h"
#include "worker/service/logit_streams.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using News = EngineCall::News;

// How often a waiting handler looks whether its caller is still there: at first, and at least.
// Those that wait for long are many, and their looks would cost the steps their time.
constexpr milliseconds kPoll{20};
constexpr milliseconds kPollMax{320};
constexpr size_t kArtifactChunkBytes = 1 << 20;

// The files of a model folder that the gateway may ask for.
constexpr std::string_view kArtifacts[] = {
    "tokenizer.json",         "tokenizer.model", "tokenizer_config.json",  "chat_template.jinja",
    "generation_config.json", "config.json",     "special_tokens_map.json"};

absl::StatusOr<std::string> ReadArtifact(const RankHost::Model& model, const std::string& name) {
  if (std::ranges::find(kArtifacts, name) == std::end(kArtifacts)) {
    return MakeError(Reason::kBadRequest,
                     fmt::format("'{}' is not a file that workers give", name));
  }
  const std::filesystem::path path = std::filesystem::path(model.dir) / name;
  std::error_code error;
  const uint64_t size = std::filesystem::file_size(path, error);
  if (error) {
    return MakeError(Reason::kInputMissing, "cannot read", {.file = path.string()},
                     error.message());
  }
  if (size > kTokenizerFileMax) {
    return MakeError(Reason::kBadCheckpoint, fmt::format("{} bytes are too many", size),
                     {.file = path.string()});
  }
  std::string bytes(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) {
    return MakeError(Reason::kIo, "cannot read", {.file = path.string()});
  }
  return bytes;
}

std::string_view OutcomeOf(const absl::Status& status, v1::FinishReason finish) {
  if (!status.ok()) return InfoOf(ReasonOf(status)).name;
  switch (finish) {
    case v1::FINISH_CANCELLED:
      return "cancelled";
    case v1::FINISH_DEADLINE:
      return "deadline";
    case v1::FINISH_LENGTH:
      return "length";
    default:
      return "stop";
  }
}

class EngineService final : public v1::Engine::Service {
 public:
  EngineService(RankHost* host, Metrics* metrics, const std::string& token)
      : host_(host), metrics_(metrics), token_(token), guard_(token) {}

  grpc::Status Generate(grpc::ServerContext* context, const v1::EngineRequest* request,
                        grpc::ServerWriter<v1::EngineEvent>* writer) override {
    if (grpc::Status refused = guard_.Check(*context); !refused.ok()) return refused;
    return ToGrpc(Generate(*context, *request, *writer));
  }

  grpc::Status Score(grpc::ServerContext* context, const v1::EngineScoreRequest* request,
                     v1::EngineScoreResponse* response) override {
    if (grpc::Status refused = guard_.Check(*context); !refused.ok()) return refused;
    return ToGrpc(Score(*context, *request, *response));
  }

  grpc::Status Logits(grpc::ServerContext* context, const v1::EngineScoreRequest* request,
                      grpc::ServerWriter<v1::LogitRows>* writer) override {
    if (grpc::Status refused = guard_.Check(*context); !refused.ok()) return refused;
    return WithEngine(request->group_epoch(), [&](Engine& engine) {
      return StreamLogits(engine, *request, *context, *writer);
    });
  }

  grpc::Status Compare(grpc::ServerContext* context, const v1::EngineCompareRequest* request,
                       v1::Comparison* response) override {
    if (grpc::Status refused = guard_.Check(*context); !refused.ok()) return refused;
    return WithEngine(request->group_epoch(), [&](Engine& engine) {
      return CompareWithReference(engine, *request, *context, token_, response);
    });
  }

  grpc::Status GetTokenLog(grpc::ServerContext* context, const v1::GetTokenLogRequest* request,
                           v1::LoggedRequest* response) override {
    if (grpc::Status refused = guard_.Check(*context); !refused.ok()) return refused;
    absl::StatusOr<v1::LoggedRequest> logged = log_.Get(request->request_id());
    if (!logged.ok()) return ToGrpc(logged.status());
    *response = *std::move(logged);
    return grpc::Status::OK;
  }

  grpc::Status GetArtifact(grpc::ServerContext* context, const v1::GetArtifactRequest* request,
                           grpc::ServerWriter<v1::ArtifactChunk>* writer) override {
    if (grpc::Status refused = guard_.Check(*context); !refused.ok()) return refused;
    return ToGrpc(GetArtifact(*request, *writer));
  }

  grpc::Status Follow(grpc::ServerContext* context,
                      grpc::ServerReaderWriter<v1::StepDone, v1::Step>* stream) override {
    if (grpc::Status refused = guard_.Check(*context); !refused.ok()) return refused;
    v1::Step step;
    while (stream->Read(&step)) {
      const v1::StepDone done = host_->Follow(step);
      if (!stream->Write(done) || done.has_failure()) break;
    }
    return grpc::Status::OK;
  }

 private:
  // Runs `body` with the engine of a group, and counts how it ended.
  template <typename Body>
  grpc::Status WithEngine(uint64_t epoch, Body body) {
    const auto engine = host_->engine(epoch);
    if (!engine.ok()) return ToGrpc(engine.status());
    const absl::Status status = body(**engine);
    metrics_->Add(metric::kEngineRequests, 1, {OutcomeOf(status, v1::FINISH_STOP)});
    return ToGrpc(status);
  }

  absl::Status Generate(grpc::ServerContext& context, const v1::EngineRequest& request,
                        grpc::ServerWriter<v1::EngineEvent>& writer) {
    OCTAVO_ASSIGN_OR_RETURN(std::shared_ptr<Engine> engine, host_->engine(request.group_epoch()));
    auto call = engine->Generate(request, DeadlineOf(context));
    OCTAVO_RETURN_IF_ERROR(CountRejected(call.status()));
    // A caller that is cut off holds a write up for seconds, which must not hold the group's
    // memory.
    const std::weak_ptr<Engine> group = std::exchange(engine, nullptr);
    const auto cancel = [&group, &call] {
      if (const auto there = group.lock()) there->Cancel(**call);
    };
    std::optional<TokenLog::Ticket> ticket;
    if (!request.note().empty()) ticket = log_.Begin(request);
    v1::FinishReason finish = v1::FINISH_UNSPECIFIED;
    absl::Status status;
    milliseconds poll = kPoll;
    int coalesced = 0;
    while (finish == v1::FINISH_UNSPECIFIED && status.ok()) {
      v1::EngineEvent event;
      const News news = (*call)->Wait(poll, &event);
      poll = news == News::kNothing ? std::min(2 * poll, kPollMax) : kPoll;
      coalesced += event.tokens_size() > 1 ? 1 : 0;
      // Logged before it is told: whoever was told it finds it there.
      if (ticket.has_value() && news != News::kNothing) log_.Append(*ticket, event);
      if (news == News::kFailed) {
        status = (*call)->failure();
      } else if (ticket.has_value() && !log_.Holds(*ticket)) {
        cancel();
        status = MakeError(Reason::kBusy, "a later stream took this request up");
      } else if (context.IsCancelled() || (news != News::kNothing && !writer.Write(event))) {
        cancel();
        status = MakeError(Reason::kCancelled, "the caller went away");
      } else if (news == News::kFinished) {
        finish = event.finish();
      }
    }
    metrics_->Add(metric::kEngineRequests, 1, {OutcomeOf(status, finish)});
    metrics_->Add(metric::kCoalescedWrites, coalesced);
    ShowTimes((*call)->times());
    return status;
  }

  absl::Status Score(grpc::ServerContext& context, const v1::EngineScoreRequest& request,
                     v1::EngineScoreResponse& response) {
    OCTAVO_ASSIGN_OR_RETURN(const std::shared_ptr<Engine> engine,
                            host_->engine(request.group_epoch()));
    auto call = engine->Score(request, DeadlineOf(context));
    OCTAVO_RETURN_IF_ERROR(CountRejected(call.status()));
    v1::EngineEvent event;
    absl::Status status;
    News news = News::kNothing;
    while (status.ok() && news != News::kFinished) {
      news = (*call)->Wait(kPoll, &event);
      if (news == News::kFailed) {
        status = (*call)->failure();
      } else if (news == News::kNothing && context.IsCancelled()) {
        engine->Cancel(**call);
        status = MakeError(Reason::kCancelled, "the caller went away");
      }
    }
    if (status.ok() && event.finish() == v1::FINISH_DEADLINE) {
      status = MakeError(Reason::kDeadline, "the deadline passed while scoring");
    }
    if (status.ok()) response = (*call)->TakeScore();
    metrics_->Add(metric::kEngineRequests, 1, {OutcomeOf(status, event.finish())});
    return status;
  }

  absl::Status GetArtifact(const v1::GetArtifactRequest& request,
                           grpc::ServerWriter<v1::ArtifactChunk>& writer) {
    OCTAVO_ASSIGN_OR_RETURN(const RankHost::Model model, host_->model(request.group_epoch()));
    if (!request.model_id().empty() && request.model_id() != model.id) {
      return MakeError(Reason::kNotFound, fmt::format("this worker serves '{}', not '{}'", model.id,
                                                      request.model_id()));
    }
    OCTAVO_ASSIGN_OR_RETURN(const std::string bytes, ReadArtifact(model, request.name()));
    const Digest128 digest = DigestOf(bytes);
    v1::ArtifactChunk chunk;
    chunk.mutable_digest()->set_low(digest.low);
    chunk.mutable_digest()->set_high(digest.high);
    chunk.set_size(bytes.size());
    // The digest goes first and alone: a caller that has the file already hangs up.
    if (!writer.Write(chunk)) return absl::OkStatus();
    for (size_t at = 0; at < bytes.size(); at += kArtifactChunkBytes) {
      chunk.Clear();
      chunk.set_data(bytes.substr(at, kArtifactChunkBytes));
      if (!writer.Write(chunk)) break;
    }
    return absl::OkStatus();
  }

  void ShowTimes(const EngineCall::Times& times) {
    if (times.queued) metrics_->Observe(metric::kEngineQueueSeconds, *times.queued);
    if (times.prefill) metrics_->Observe(metric::kEnginePrefillSeconds, *times.prefill);
    if (times.decode) metrics_->Observe(metric::kEngineDecodeSeconds, *times.decode);
  }

  absl::Status CountRejected(const absl::Status& status) {
    if (!status.ok()) {
      metrics_->Add(metric::kEngineRejected, 1, {InfoOf(ReasonOf(status)).name});
    }
    return status;
  }

  RankHost* const host_;
  Metrics* const metrics_;
  const std::string token_;
  const CallGuard guard_;
  TokenLog log_{TokenLog::Limits{}};
};

}  // namespace

std::unique_ptr<grpc::Service> MakeEngineService(RankHost* host, Metrics* metrics,
                                                 const std::string& token) {
  return std::make_unique<EngineService>(host, metrics, token);
}

}  // namespace octavo
