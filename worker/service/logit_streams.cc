#include "worker/service/logit_streams.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/channel.h"
#include "worker/serve/compare.h"

namespace octavo {
namespace {

// How often a wait looks whether its caller is still there.
constexpr std::chrono::milliseconds kRowsPoll{20};

// Rows of the engine of this process. Queued with the first look, cancelled at the end.
class LocalRows {
 public:
  LocalRows(Engine& engine, const v1::EngineScoreRequest& request,
            const grpc::ServerContext& context)
      : engine_(engine), request_(request), context_(context) {}
  ~LocalRows() {
    if (call_ != nullptr) engine_.Cancel(*call_);
  }
  LocalRows(const LocalRows&) = delete;
  LocalRows& operator=(const LocalRows&) = delete;

  // The next rows; none after the last.
  absl::StatusOr<EngineCall::Rows> Next() {
    if (call_ == nullptr) {
      OCTAVO_ASSIGN_OR_RETURN(call_, engine_.Logits(request_, DeadlineOf(context_)));
    }
    while (true) {
      v1::EngineEvent event;
      const EngineCall::News news = call_->Wait(kRowsPoll, &event);
      if (news == EngineCall::News::kFailed) return call_->failure();
      if (auto rows = engine_.TakeRows(*call_)) return *std::move(rows);
      if (news == EngineCall::News::kFinished) {
        if (event.finish() == v1::FINISH_STOP) return EngineCall::Rows();
        return MakeError(Reason::kDeadline, "the deadline passed while logits were computed");
      }
      if (context_.IsCancelled()) return MakeError(Reason::kCancelled, "the caller went away");
    }
  }

 private:
  Engine& engine_;
  const v1::EngineScoreRequest& request_;
  const grpc::ServerContext& context_;
  std::shared_ptr<EngineCall> call_;
};

template <class T>
std::vector<T> ValuesOf(const std::string& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

// Rows of another leader. Asked for with the first look.
class RemoteRows {
 public:
  RemoteRows(const std::string& address, const std::string& token,
             const v1::EngineScoreRequest& request, const grpc::ServerContext& context,
             const Engine& engine)
      : address_(address),
        stub_(v1::Engine::NewStub(MakeChannel(address, token))),
        request_(request),
        client_(grpc::ClientContext::FromServerContext(context)),
        engine_(engine) {}
  ~RemoteRows() {
    if (stream_ == nullptr) return;
    client_->TryCancel();
    (void)stream_->Finish();
  }
  RemoteRows(const RemoteRows&) = delete;
  RemoteRows& operator=(const RemoteRows&) = delete;

  absl::StatusOr<EngineCall::Rows> Next() {
    if (stream_ == nullptr) stream_ = stub_->Logits(client_.get(), request_);
    v1::LogitRows message;
    if (!stream_->Read(&message)) return Ended();
    if (message.vocab_size() != engine_.vocab_size()) {
      return MakeError(Reason::kBadRequest,
                       fmt::format("the reference has a vocabulary of {}, the model one of {}",
                                   message.vocab_size(), engine_.vocab_size()),
                       {}, "Compare models with the same tokenizer");
    }
    OCTAVO_RETURN_IF_ERROR(CheckLayers(message));
    EngineCall::Rows rows;
    rows.start = message.start();
    rows.logits = ValuesOf<float>(message.logits());
    rows.residuals = ValuesOf<uint16_t>(message.residuals());
    return rows;
  }

 private:
  absl::Status CheckLayers(const v1::LogitRows& message) const {
    if (!request_.want_residuals()) return absl::OkStatus();
    const uint64_t rows = message.logits().size() / sizeof(float) / message.vocab_size();
    const uint64_t values = message.residuals().size() / sizeof(uint16_t);
    const uint64_t row_values = rows == 0 ? 0 : values / rows;
    const auto layers = static_cast<uint64_t>(engine_.layer_count());
    const auto hidden = static_cast<uint64_t>(engine_.hidden_size());
    if (message.layer_count() == layers && row_values == layers * hidden) return absl::OkStatus();
    return MakeError(
        Reason::kBadRequest,
        fmt::format("the reference has {} layers of {}, the model {} of {}", message.layer_count(),
                    row_values / std::max(message.layer_count(), 1u), layers, hidden),
        {}, "Compare them without their layers");
  }

  absl::StatusOr<EngineCall::Rows> Ended() {
    const absl::Status status = FromGrpc(std::exchange(stream_, nullptr)->Finish());
    if (status.ok()) return EngineCall::Rows();
    if (ReasonOf(status) != Reason::kUnreachable) return status;
    return MakeError(Reason::kGroupLost,
                     fmt::format("the reference's leader at {} does not answer", address_), {},
                     "send the request again");
  }

  const std::string address_;
  const std::unique_ptr<v1::Engine::Stub> stub_;
  const v1::EngineScoreRequest& request_;
  const std::unique_ptr<grpc::ClientContext> client_;
  const Engine& engine_;  // of the model under test
  std::unique_ptr<grpc::ClientReader<v1::LogitRows>> stream_;
};

}  // namespace

std::optional<Clock::Nanos> DeadlineOf(const grpc::ServerContext& context) {
  const auto deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return std::nullopt;
  const auto left = deadline - std::chrono::system_clock::now();
  return Clock::System().Now() + std::chrono::duration_cast<Clock::Nanos>(left);
}

absl::Status StreamLogits(Engine& engine, const v1::EngineScoreRequest& request,
                          const grpc::ServerContext& context,
                          grpc::ServerWriter<v1::LogitRows>& writer) {
  LocalRows source(engine, request, context);
  const auto vocab = static_cast<size_t>(engine.vocab_size());
  const auto width = request.want_residuals()
                         ? static_cast<size_t>(engine.layer_count() * engine.hidden_size())
                         : 0;
  const size_t row_bytes = vocab * sizeof(float) + width * sizeof(uint16_t);
  const size_t most = std::max<size_t>(kLogitMessageBytes / row_bytes, 1) * vocab;
  while (true) {
    OCTAVO_ASSIGN_OR_RETURN(const EngineCall::Rows rows, source.Next());
    if (rows.logits.empty()) return absl::OkStatus();
    for (size_t at = 0; at < rows.logits.size(); at += most) {
      const size_t count = std::min(most, rows.logits.size() - at);
      v1::LogitRows message;
      message.set_start(rows.start + static_cast<uint32_t>(at / vocab));
      message.set_vocab_size(static_cast<uint32_t>(vocab));
      message.set_logits(rows.logits.data() + at, count * sizeof(float));
      if (width > 0) {
        message.set_layer_count(static_cast<uint32_t>(engine.layer_count()));
        message.set_residuals(rows.residuals.data() + at / vocab * width,
                              count / vocab * width * sizeof(uint16_t));
      }
      if (!writer.Write(message)) return MakeError(Reason::kCancelled, "the reader went away");
    }
  }
}

absl::Status CompareWithReference(Engine& engine, const v1::EngineCompareRequest& request,
                                  const grpc::ServerContext& context, const std::string& token,
                                  v1::Comparison* result) {
  const std::vector<int32_t> ids(request.ids().begin(), request.ids().end());
  if (ids.size() < 2) {
    return MakeError(Reason::kBadRequest, "two ids or more are needed to compare");
  }
  if (ids.back() < 0 || ids.back() >= engine.vocab_size()) {
    return MakeError(Reason::kBadRequest, fmt::format("token id {} is outside the vocabulary of {}",
                                                      ids.back(), engine.vocab_size()));
  }
  // The last id is only looked up, never read.
  v1::EngineScoreRequest prefix;
  prefix.set_request_id(request.request_id());
  prefix.mutable_ids()->Add(ids.begin(), ids.end() - 1);
  prefix.set_want_residuals(request.layers());
  v1::EngineScoreRequest there = prefix;
  there.set_group_epoch(request.reference_epoch());
  RemoteRows reference(request.reference_address(), token, there, context, engine);
  LocalRows model(engine, prefix, context);
  OCTAVO_ASSIGN_OR_RETURN(
      *result, CompareSequence(ids, {.reference = [&] { return reference.Next(); },
                                     .model = [&] { return model.Next(); },
                                     .reference_first = request.reference_first(),
                                     .vocab_size = engine.vocab_size(),
                                     .layer_count = request.layers() ? engine.layer_count() : 0,
                                     .hidden_size = engine.hidden_size(),
                                     .isa = engine.isa()}));
  return absl::OkStatus();
}

}  // namespace octavo
