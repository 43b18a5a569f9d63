#include "coordinator/gateway/choices.h"

#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/metrics/metrics.h"
#include "grpcpp/support/async_stream.h"

namespace octavo {

struct Choices::Choice {
  // What the queue will say next.
  enum class Awaits { kStart, kEvent, kStatus };

  uint32_t index;
  v1::EngineRequest request;
  Assembler assembler;
  grpc::ClientContext context = {};
  std::unique_ptr<grpc::ClientAsyncReader<v1::EngineEvent>> reader = nullptr;
  Awaits awaits = Awaits::kStart;
  v1::EngineEvent event = {};
  grpc::Status status = {};
  std::optional<double> first_token_seconds = std::nullopt;
  Steady::time_point last_token = {};
  v1::FinishReason finish = v1::FINISH_UNSPECIFIED;  // once it was told
};

Choices::Choices(const Parts& parts) : parts_(parts), start_(Steady::now()) {}

Choices::~Choices() {
  void* tag = nullptr;
  bool ok = false;
  queue_.Shutdown();
  while (queue_.Next(&tag, &ok)) {
  }
}

void Choices::Add(v1::EngineRequest request, Assembler assembler) {
  choices_.push_back(
      std::unique_ptr<Choice>(new Choice{.index = static_cast<uint32_t>(choices_.size()),
                                         .request = std::move(request),
                                         .assembler = std::move(assembler)}));
}

absl::Status Choices::Run(v1::Engine::Stub& leader, const v1::ModelInfo& model) {
  for (const auto& choice : choices_) {
    choice->context.set_deadline(parts_.client.deadline());
    parts_.calls.Open(parts_.call, model, &choice->context);
    choice->reader = leader.AsyncGenerate(&choice->context, choice->request, &queue_, choice.get());
  }
  size_t open = choices_.size();
  void* tag = nullptr;
  bool ok = false;
  while (open > 0 && queue_.Next(&tag, &ok)) {
    if (!Advance(*static_cast<Choice*>(tag), ok)) --open;
  }
  const absl::Status ended = parts_.calls.Close(parts_.call);
  if (client_gone_) return MakeError(Reason::kCancelled, "the client hung up");
  if (failure_.ok()) return absl::OkStatus();
  if (ended.ok()) return failure_;
  if (ReasonOf(ended) != Reason::kCancelled || parts_.client.IsCancelled()) return ended;
  // Aborted: the client keeps what it has and hears so.
  for (const auto& choice : choices_) {
    if (choice->finish == v1::FINISH_UNSPECIFIED) SendFinished(*choice, v1::FINISH_CANCELLED);
  }
  return absl::OkStatus();
}

bool Choices::Advance(Choice& choice, bool ok) {
  if (choice.awaits == Choice::Awaits::kStatus) {
    const absl::Status status = LeaderStatus(choice.status);
    if (choice.finish == v1::FINISH_UNSPECIFIED && failure_.ok()) {
      failure_ = status.ok()
                     ? MakeError(Reason::kInternal, "the engine's stream ended without a reason")
                     : status;
      CancelAll();
    }
    return false;
  }
  if (ok && choice.awaits == Choice::Awaits::kEvent) Forward(choice);
  const bool told = choice.finish != v1::FINISH_UNSPECIFIED;
  if (ok && !told && !client_gone_) {
    choice.awaits = Choice::Awaits::kEvent;
    choice.reader->Read(&choice.event, &choice);
    return true;
  }
  // A stop string ends the text here; the engine may let go.
  if (told) choice.context.TryCancel();
  if (client_gone_) CancelAll();
  choice.awaits = Choice::Awaits::kStatus;
  choice.reader->Finish(&choice.status, &choice);
  return true;
}

void Choices::Forward(Choice& choice) {
  if (client_gone_) return;
  v1::GenerateResponse response;
  v1::Delta& delta = *response.mutable_delta();
  delta = choice.assembler.Push(choice.event);
  delta.set_index(choice.index);
  if (delta.tokens_size() > 0) CountTokens(choice, delta.tokens_size());
  const bool news =
      !delta.text().empty() || delta.tokens_size() > 0 || delta.prompt_tokens_size() > 0;
  if (news && !parts_.writer.Write(response)) {
    client_gone_ = true;
  } else if (choice.assembler.finished()) {
    SendFinished(choice, choice.assembler.reason());
  }
}

void Choices::CountTokens(Choice& choice, int count) {
  const auto now = Steady::now();
  parts_.metrics.Add(metric::kGenerationTokens, count);
  int gaps = count;
  if (!choice.first_token_seconds.has_value()) {
    choice.first_token_seconds = SecondsSinceStart();
    parts_.metrics.Observe(metric::kTimeToFirstToken, *choice.first_token_seconds);
    choice.last_token = now;
    --gaps;
  }
  if (gaps == 0) return;
  const double each =
      std::chrono::duration<double>(now - choice.last_token).count() / static_cast<double>(gaps);
  for (int i = 0; i < gaps; ++i) parts_.metrics.Observe(metric::kInterTokenLatency, each);
  choice.last_token = now;
}

void Choices::SendFinished(Choice& choice, v1::FinishReason reason) {
  choice.finish = reason;
  v1::GenerateResponse response;
  v1::Finished& finished = *response.mutable_finished();
  finished.set_reason(reason);
  finished.set_matched_stop(choice.assembler.matched_stop());
  if (choice.index == 0) {
    finished.mutable_usage()->set_prompt_tokens(
        static_cast<uint32_t>(choice.request.prompt_size()));
    finished.mutable_usage()->set_cached_prompt_tokens(choice.assembler.cached_tokens());
  }
  finished.mutable_usage()->set_completion_tokens(choice.assembler.tokens());
  finished.set_seed(choice.request.sampling().seed());
  finished.set_time_to_first_token_seconds(choice.first_token_seconds.value_or(0));
  finished.set_total_seconds(SecondsSinceStart());
  finished.set_index(choice.index);
  // That nobody reads it is found out with the next write, or not at all: it is the last one.
  (void)parts_.writer.Write(response);
}

void Choices::CancelAll() {
  for (const auto& choice : choices_) choice->context.TryCancel();
}

double Choices::SecondsSinceStart() const {
  return std::chrono::duration<double>(Steady::now() - start_).count();
}

v1::FinishReason Choices::finish() const { return choices_.front()->finish; }

uint32_t Choices::tokens() const {
  uint32_t tokens = 0;
  for (const auto& choice : choices_) tokens += choice->assembler.tokens();
  return tokens;
}

}  // namespace octavo
