#include "coordinator/gateway/choices.h"

#include <algorithm>
#include <climits>
#include <thread>
#include <utility>

#include "core/base/error.h"
#include "core/base/limits.h"
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
  std::unique_ptr<grpc::ClientContext> context = nullptr;  // with the group it streams from
  std::unique_ptr<grpc::ClientAsyncReader<v1::EngineEvent>> reader = nullptr;
  Awaits awaits = Awaits::kStart;
  v1::EngineEvent event = {};
  grpc::Status status = {};
  std::optional<double> first_token_seconds = std::nullopt;
  Steady::time_point first_token = {};
  Steady::time_point last_token = {};
  int gaps = 0;                                      // between its tokens
  v1::FinishReason finish = v1::FINISH_UNSPECIFIED;  // once it was told
  int client_has = 0;    // tokens still to come that the client has already
  int prompt_told = 0;   // log probabilities of the prompt that the client has
  int prompt_again = 0;  // of those, what the group now says once more

  bool told() const { return finish != v1::FINISH_UNSPECIFIED; }
};

namespace {

constexpr std::chrono::milliseconds kGroupPoll{20};
// Groups in a row that may be lost before they bring anything; more within kIdleTime, because a
// stream that waits its turn is not to blame for them.
constexpr int kIdleGroupsMax = 2;
constexpr std::chrono::seconds kIdleTime{10};
// A client whose deadline passes hears of it from its own library, which knows no reason: it is
// told this long before.
constexpr std::chrono::milliseconds kLastWord{200};

bool IsGroupGone(const absl::Status& status) {
  return !status.ok() &&
         (ReasonOf(status) == Reason::kGroupLost || ReasonOf(status) == Reason::kStateMismatch);
}

// Counts a request among those that wait for a group.
class AwaitsGroup {
 public:
  explicit AwaitsGroup(Metrics& metrics) : metrics_(metrics) {
    metrics_.Shift(metric::kRequestsAwaitGroup, 1);
  }
  ~AwaitsGroup() { metrics_.Shift(metric::kRequestsAwaitGroup, -1); }
  AwaitsGroup(const AwaitsGroup&) = delete;
  AwaitsGroup& operator=(const AwaitsGroup&) = delete;

 private:
  Metrics& metrics_;
};

}  // namespace

Choices::Choices(const Parts& parts) : parts_(parts), start_(Steady::now()) {}

Choices::~Choices() {
  void* tag = nullptr;
  bool ok = false;
  queue_.Shutdown();
  while (queue_.Next(&tag, &ok)) {
  }
}

void Choices::Add(v1::EngineRequest request, Assembler assembler, Past past) {
  const int prompt = request.prompt_size();
  choices_.push_back(std::unique_ptr<Choice>(
      new Choice{.index = static_cast<uint32_t>(choices_.size()),
                 .request = std::move(request),
                 .assembler = std::move(assembler),
                 .event = std::move(past.told),
                 .client_has = static_cast<int>(std::min<uint32_t>(past.client_tokens, INT_MAX)),
                 .prompt_told = past.client_tokens > 0 ? std::max(prompt - 1, 0) : 0}));
}

absl::Status Choices::Run(Leader leader) {
  const absl::Status status = RunOverGroups(std::move(leader));
  CountDiscarded(status);
  return status;
}

void Choices::CountDiscarded(const absl::Status& status) {
  const Reason reason = status.ok() ? Reason::kInternal : ReasonOf(status);
  const char* why = nullptr;
  if (reason == Reason::kCancelled) {
    // A client whose deadline passed hangs up, too, a little before it passes here.
    const bool late = parts_.client.deadline() - kLastWord <= std::chrono::system_clock::now();
    why = late ? "deadline" : "disconnect";
  }
  if (reason == Reason::kDeadline) why = "deadline";
  if (status.ok() && finish() == v1::FINISH_CANCELLED) why = "cancel";
  if (status.ok() && finish() == v1::FINISH_DEADLINE) why = "deadline";
  if (why != nullptr) parts_.metrics.Add(metric::kDiscardedTokens, tokens(), {why});
}

absl::Status Choices::RunOverGroups(Leader leader) {
  for (const auto& choice : choices_) {
    if (choice->event.tokens_size() > 0) Forward(*choice, false);
  }
  int idle = 0;
  auto news = Steady::now();
  while (true) {
    const uint64_t before = events_;
    const absl::Status status = StreamFrom(leader);
    // A group that takes no more is as good as gone to who was told something already.
    const bool refused = !status.ok() && ReasonOf(status) == Reason::kNotReady && events_ > 0;
    if (!IsGroupGone(status) && !refused) return status;
    ++idle;
    if (events_ > before) {
      idle = 0;
      news = Steady::now();
    }
    if (idle > kIdleGroupsMax && Steady::now() - news > kIdleTime) return status;
    absl::StatusOr<Leader> next = AwaitGroup(leader.model);
    if (!next.ok()) return IsGroupGone(next.status()) ? status : EndAs(next.status());
    if (next->model.group_epoch() == leader.model.group_epoch()) {
      // It was not lost, only out of reach: a connection that the network broke comes back.
      --idle;
      if (Steady::now() - news > parts_.patience.group) return status;
    }
    leader = *std::move(next);
    parts_.metrics.Add(metric::kStreamsResumed, 1);
  }
}

absl::Status Choices::StreamFrom(const Leader& leader) {
  failure_ = absl::OkStatus();
  size_t open = 0;
  for (const auto& choice : choices_) {
    if (choice->told()) continue;
    choice->reader.reset();  // lives in its context's call
    choice->context = std::make_unique<grpc::ClientContext>();
    choice->context->set_deadline(parts_.client.deadline());
    parts_.calls.Open(parts_.call, leader.model, choice->context.get());
    choice->request.set_group_epoch(leader.model.group_epoch());
    // Told once is enough, and without them the prefix cache can help.
    choice->prompt_again = choice->prompt_told;
    if (choice->prompt_told + 1 >= choice->request.prompt_size()) {
      choice->request.set_prompt_logprobs(false);
    }
    choice->awaits = Choice::Awaits::kStart;
    choice->reader =
        leader.engine->AsyncGenerate(choice->context.get(), choice->request, &queue_, choice.get());
    ++open;
  }
  void* tag = nullptr;
  bool ok = false;
  while (open > 0 && queue_.Next(&tag, &ok)) {
    if (!Advance(*static_cast<Choice*>(tag), ok)) --open;
  }
  const absl::Status ended = parts_.calls.Close(parts_.call);
  if (client_gone_) return MakeError(Reason::kCancelled, "the client hung up");
  if (failure_.ok()) return absl::OkStatus();
  return ended.ok() ? failure_ : EndAs(ended);
}

absl::Status Choices::EndAs(const absl::Status& ended) {
  if (ReasonOf(ended) != Reason::kCancelled || parts_.client.IsCancelled()) return ended;
  // Aborted: the client keeps what it has and hears so.
  for (const auto& choice : choices_) {
    if (!choice->told()) SendFinished(*choice, v1::FINISH_CANCELLED);
  }
  return absl::OkStatus();
}

absl::StatusOr<Choices::Leader> Choices::AwaitGroup(const v1::ModelInfo& lost) {
  const auto start = Steady::now();
  const AwaitsGroup awaits(parts_.metrics);
  while (true) {
    OCTAVO_RETURN_IF_ERROR(parts_.calls.Resume(parts_.call));
    absl::StatusOr<Leader> leader = parts_.find_leader();
    const auto waited = Steady::now() - start;
    const bool other = leader.ok() && leader->model.model_dir() != lost.model_dir();
    if (other && events_ == 0) {
      return MakeError(Reason::kNotReady, "another version took the model's place");
    }
    if (other || waited > parts_.patience.group) {
      return MakeError(Reason::kGroupLost, "no group came that could go on");
    }
    if (leader.ok() &&
        (leader->model.group_epoch() != lost.group_epoch() ||
         (waited > parts_.patience.same_group && leader->model.state() == "ready"))) {
      return leader;
    }
    if (!leader.ok() && ReasonOf(leader.status()) != Reason::kNotReady) return leader.status();
    if (parts_.client.deadline() - kLastWord <= std::chrono::system_clock::now()) {
      return MakeError(Reason::kGroupLost, "no group came before the deadline");
    }
    std::this_thread::sleep_for(kGroupPoll);
  }
}

bool Choices::Advance(Choice& choice, bool ok) {
  if (choice.awaits == Choice::Awaits::kStatus) {
    const absl::Status status = LeaderStatus(choice.status);
    if (!choice.told() && failure_.ok()) {
      failure_ = status.ok()
                     ? MakeError(Reason::kInternal, "the engine's stream ended without a reason")
                     : status;
      CancelAll();
    }
    return false;
  }
  if (ok && choice.awaits == Choice::Awaits::kEvent) Forward(choice, true);
  if (ok && !choice.told() && !client_gone_) {
    choice.awaits = Choice::Awaits::kEvent;
    choice.reader->Read(&choice.event, &choice);
    return true;
  }
  // A stop string ends the text here; the engine may let go.
  if (choice.told()) choice.context->TryCancel();
  if (client_gone_) CancelAll();
  choice.awaits = Choice::Awaits::kStatus;
  choice.reader->Finish(&choice.status, &choice);
  return true;
}

v1::Delta Choices::Assemble(Choice& choice) {
  v1::EngineEvent& event = choice.event;
  const int count = event.tokens_size();
  const int had = std::min(choice.client_has, count);
  if (had == 0) return choice.assembler.Push(event);
  choice.client_has -= had;
  v1::EngineEvent first = event;
  first.mutable_tokens()->DeleteSubrange(had, count - had);
  if (had < count) first.clear_finish();
  choice.assembler.Push(first);
  event.mutable_tokens()->DeleteSubrange(0, had);
  event.clear_cached_tokens();
  return had < count ? choice.assembler.Push(event) : v1::Delta();
}

void Choices::Forward(Choice& choice, bool now) {
  if (client_gone_) return;
  TakeNews(choice);
  v1::GenerateResponse response;
  v1::Delta& delta = *response.mutable_delta();
  delta = Assemble(choice);
  delta.set_index(choice.index);
  if (now && delta.tokens_size() > 0) CountTokens(choice, delta.tokens_size());
  const bool news =
      !delta.text().empty() || delta.tokens_size() > 0 || delta.prompt_tokens_size() > 0;
  if (news && !parts_.writer.Write(response)) {
    client_gone_ = true;
  } else if (choice.assembler.finished()) {
    SendFinished(choice, choice.assembler.reason());
  }
}

void Choices::TakeNews(Choice& choice) {
  v1::EngineEvent& event = choice.event;
  const int again = std::min(choice.prompt_again, event.prompt_size());
  event.mutable_prompt()->DeleteSubrange(0, again);
  choice.prompt_again -= again;
  choice.prompt_told += event.prompt_size();
  if (choice.request.output_size() > 0) event.clear_cached_tokens();
  for (const v1::EngineToken& token : event.tokens()) choice.request.add_output(token.id());
  if (!choice.request.note().empty() && event.tokens_size() > 0) {
    v1::EngineEvent told;
    *told.mutable_tokens() = event.tokens();
    told.AppendToString(choice.request.mutable_told());
    // Beyond that no log keeps it.
    if (choice.request.told().size() > kTokenLogRequestBytes) {
      choice.request.clear_note();
      choice.request.clear_told();
    }
  }
  events_ += event.tokens_size() > 0 || event.prompt_size() > 0 ? 1 : 0;
}

void Choices::CountTokens(Choice& choice, int count) {
  const auto now = Steady::now();
  parts_.metrics.Add(metric::kGenerationTokens, count);
  int gaps = count;
  if (!choice.first_token_seconds.has_value()) {
    choice.first_token_seconds = SecondsSinceStart();
    parts_.metrics.Observe(metric::kTimeToFirstToken, *choice.first_token_seconds);
    choice.first_token = choice.last_token = now;
    --gaps;
  }
  if (gaps == 0) return;
  const double each =
      std::chrono::duration<double>(now - choice.last_token).count() / static_cast<double>(gaps);
  for (int i = 0; i < gaps; ++i) parts_.metrics.Observe(metric::kInterTokenLatency, each);
  choice.last_token = now;
  choice.gaps += gaps;
}

void Choices::SendFinished(Choice& choice, v1::FinishReason reason) {
  choice.finish = reason;
  if (choice.gaps > 0) {
    const std::chrono::duration<double> all = choice.last_token - choice.first_token;
    parts_.metrics.Observe(metric::kTimePerOutputToken, all.count() / choice.gaps);
  }
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
  for (const auto& choice : choices_) {
    if (choice->context != nullptr) choice->context->TryCancel();
  }
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
