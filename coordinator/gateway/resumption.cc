#include "coordinator/gateway/resumption.h"

#include <algorithm>
#include <utility>

#include "core/base/clock.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"

namespace octavo {

std::string NoteOf(const v1::GenerateRequest& request, const v1::ModelInfo& model, uint64_t seed) {
  if (request.request_id().empty()) return "";
  v1::StreamNote note;
  *note.mutable_request() = request;
  note.mutable_request()->set_model(model.model_id());
  note.mutable_request()->set_seed(seed);
  note.set_model_dir(model.model_dir());
  note.set_begun_nanos(static_cast<uint64_t>(Clock::System().WallNow().count()));
  std::string bytes = note.SerializeAsString();
  return bytes.size() <= kNoteBytesMax ? bytes : "";
}

absl::StatusOr<bool> IsResumption(const v1::GenerateRequest& request) {
  if (request.from_index().empty()) return false;
  if (request.request_id().empty()) {
    return MakeError(Reason::kBadRequest, "from_index needs the request_id of the stream");
  }
  v1::GenerateRequest rest = request;
  rest.clear_request_id();
  rest.clear_model();
  rest.clear_from_index();
  if (rest.ByteSizeLong() > 0) {
    return MakeError(Reason::kBadRequest,
                     "from_index goes with model and request_id alone: the rest is as it was asked",
                     {}, "leave all other fields away");
  }
  return true;
}

namespace {

struct Ask {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::LoggedRequest>> reader;
  v1::LoggedRequest logged;
  grpc::Status status;
};

}  // namespace

absl::StatusOr<std::vector<v1::LoggedRequest>> AskForLog(
    const std::vector<std::shared_ptr<v1::Engine::Stub>>& workers, const std::string& request_id,
    std::chrono::milliseconds timeout) {
  v1::GetTokenLogRequest request;
  request.set_request_id(request_id);
  grpc::CompletionQueue queue;
  std::vector<std::unique_ptr<Ask>> asks;
  for (const auto& worker : workers) {
    Ask& ask = *asks.emplace_back(std::make_unique<Ask>());
    SetTimeout(ask.context, timeout);
    ask.reader = worker->AsyncGetTokenLog(&ask.context, request, &queue);
    ask.reader->Finish(&ask.logged, &ask.status, &ask);
  }
  void* tag = nullptr;
  bool ok = false;
  for (size_t i = 0; i < asks.size(); ++i) queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
  std::vector<v1::LoggedRequest> found;
  bool answered = false;
  for (const auto& ask : asks) {
    if (ask->status.ok()) found.push_back(std::move(ask->logged));
    answered |= ask->status.ok() || ReasonOf(FromGrpc(ask->status)) == Reason::kNotFound;
  }
  if (!answered) {
    return MakeError(Reason::kNotReady, "no worker answers that could remember the request", {},
                     "try again when workers are attached");
  }
  return found;
}

absl::StatusOr<Resumption> ChooseLog(const std::vector<v1::LoggedRequest>& logs,
                                     const v1::GenerateRequest& resume) {
  Resumption chosen;
  uint64_t begun = 0;
  for (const v1::LoggedRequest& logged : logs) {
    v1::StreamNote note;
    if (!note.ParseFromString(logged.note()) || note.begun_nanos() <= begun) continue;
    begun = note.begun_nanos();
    chosen = {.request = note.request(), .model_dir = note.model_dir(), .note = logged.note()};
  }
  if (begun == 0) {
    return MakeError(Reason::kNotFound,
                     fmt::format("no worker remembers a request '{}'", resume.request_id()), {},
                     "ask anew");
  }
  if (!resume.model().empty() && resume.model() != chosen.request.model()) {
    return MakeError(Reason::kBadRequest, fmt::format("request '{}' was to model '{}'",
                                                      resume.request_id(), chosen.request.model()));
  }
  const uint32_t choices = std::max(chosen.request.n(), 1u);
  if (static_cast<uint32_t>(resume.from_index_size()) > choices) {
    return MakeError(Reason::kBadRequest,
                     fmt::format("from_index has {} numbers, and the request {} choice{}",
                                 resume.from_index_size(), choices, choices == 1 ? "" : "s"));
  }
  chosen.client_tokens.assign(resume.from_index().begin(), resume.from_index().end());
  chosen.client_tokens.resize(choices);
  for (const v1::LoggedRequest& logged : logs) {
    if (logged.note() != chosen.note) continue;
    for (const v1::LoggedAnswer& answer : logged.answers()) {
      std::string& told = chosen.told[answer.choice()];
      if (answer.told().size() > told.size()) told = answer.told();
    }
  }
  return chosen;
}

Choices::Past PastOf(const Resumption& resumption, uint32_t index) {
  Choices::Past past;
  past.client_tokens = resumption.client_tokens[index];
  const bool prompt = resumption.request.prompt_logprobs() && index == 0;
  const auto told = resumption.told.find(index);
  if (told == resumption.told.end() || (prompt && past.client_tokens == 0)) return past;
  if (!past.told.ParseFromString(told->second)) past.told.Clear();
  return past;
}

}  // namespace octavo
