#include "cli/load_grpc.h"

#include <memory>
#include <stop_token>

#include "core/base/error.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "grpcpp/grpcpp.h"
#include "octavo/v1/service/inference.grpc.pb.h"

namespace octavo {
namespace {

v1::GenerateRequest RequestFor(const PlannedRequest& planned, const LoadTarget& target) {
  v1::GenerateRequest request;
  request.set_model(target.model);
  request.mutable_token_ids()->mutable_ids()->Assign(planned.prompt.begin(), planned.prompt.end());
  request.set_max_tokens(planned.output_tokens);
  request.set_temperature(static_cast<float>(target.temperature));
  request.set_seed(planned.seed);
  request.set_ignore_eos(true);
  return request;
}

void Send(v1::Inference::Stub& stub, const StopSignal& stop, const LoadTarget& target,
          const PlannedRequest& planned, const LoadClock& clock, RequestRecord* record) {
  grpc::ClientContext context;
  SetTimeout(context,
             std::chrono::milliseconds(static_cast<int64_t>(target.timeout_seconds * 1e3)));
  std::stop_callback cancel(stop.token(), [&context] { context.TryCancel(); });
  auto reader = stub.Generate(&context, RequestFor(planned, target));
  v1::GenerateResponse response;
  v1::FinishReason reason = v1::FINISH_UNSPECIFIED;
  while (reader->Read(&response)) {
    if (response.has_finished()) {
      reason = response.finished().reason();
      record->input_tokens = response.finished().usage().prompt_tokens();
      record->output_tokens = response.finished().usage().completion_tokens();
    } else if (!response.delta().tokens().empty()) {
      NoteArrival(clock, record);
    }
  }
  const absl::Status status = FromGrpc(reader->Finish());
  if (!status.ok()) {
    record->failure = std::string(InfoOf(ReasonOf(status)).name);
  } else if (reason != v1::FINISH_STOP && reason != v1::FINISH_LENGTH) {
    record->failure = v1::FinishReason_Name(reason);
  }
}

}  // namespace

LoadSender GrpcSender(const Session& session, const StopSignal& stop, const LoadTarget& target) {
  const std::shared_ptr<v1::Inference::Stub> stub = v1::Inference::NewStub(session.channel());
  return [stub, &stop, target](const PlannedRequest& planned, const LoadClock& clock,
                               RequestRecord* record) {
    Send(*stub, stop, target, planned, clock, record);
  };
}

}  // namespace octavo
