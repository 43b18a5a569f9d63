// octavo chat: talk to a served model in a terminal.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "CLI/CLI.hpp"
#include "cli/cluster_file.h"
#include "cli/context.h"
#include "cli/model_client.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/base/status.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "octavo/v1/service/inference.grpc.pb.h"

namespace octavo {
namespace {

struct ChatFlags {
  ClusterFlags cluster;
  std::string model;
  std::string system;
  std::string message;
  uint32_t max_tokens = 256;
  float temperature = 0;
  float top_p = 1;
  uint32_t top_k = 0;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  uint32_t min_tokens = 0;
  std::vector<std::string> stop;
  std::optional<uint64_t> seed;
  bool stats = false;
};

// How long an answer may bring nothing, after its connection broke, before it is given up.
constexpr std::chrono::seconds kPatience{60};
constexpr std::chrono::milliseconds kBackoffFirst{50};
constexpr std::chrono::milliseconds kBackoffMax{1'000};

struct Answer {
  std::string text;
  uint32_t tokens = 0;
  v1::Finished finished;
};

// Streams an answer, or the rest of one, to standard output.
absl::Status Hear(const Session& session, const StopSignal& stop,
                  const v1::GenerateRequest& request, Answer* answer) {
  grpc::ClientContext context;
  std::stop_callback cancel(stop.token(), [&context] { context.TryCancel(); });
  auto reader = v1::Inference::NewStub(session.channel())->Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
    if (response.has_finished()) answer->finished = response.finished();
    if (!response.has_delta()) continue;
    answer->text += response.delta().text();
    answer->tokens += static_cast<uint32_t>(response.delta().tokens_size());
    fmt::print("{}", response.delta().text());
    std::fflush(stdout);
  }
  const absl::Status ended = FromGrpc(reader->Finish());
  if (stop.requested()) return MakeError(Reason::kCancelled, "interrupted");
  return ended;
}

// What gets the rest of an answer: text goes with tokens, so that their count says it all. Of one
// that brought nothing yet the rest is all of it, under another id: the first may still be in use.
v1::GenerateRequest RestOf(const v1::GenerateRequest& request, const Answer& answer) {
  v1::GenerateRequest rest;
  if (answer.tokens == 0) rest = request;
  rest.set_model(request.model());
  rest.set_request_id(answer.tokens == 0 ? RandomHex(16) : request.request_id());
  if (answer.tokens > 0) rest.add_from_index(answer.tokens);
  return rest;
}

// Hear, and again for the rest whenever the connection breaks.
absl::Status HearToTheEnd(const Session& session, const StopSignal& stop,
                          v1::GenerateRequest request, Answer* answer) {
  request.set_request_id(RandomHex(16));
  absl::Status ended = Hear(session, stop, request, answer);
  auto news = std::chrono::steady_clock::now();
  std::chrono::milliseconds backoff = kBackoffFirst;
  bool broken = false;
  // A coordinator that is back may need a moment to find the group and what was told.
  while (!ended.ok() && (ReasonOf(ended) == Reason::kUnreachable ||
                         (broken && ReasonOf(ended) == Reason::kNotReady))) {
    if (!std::exchange(broken, true)) {
      fmt::print(stderr, "[the connection broke; waiting for the rest of the answer]\n");
    }
    if (std::chrono::steady_clock::now() - news > kPatience) return ended;
    if (stop.WaitFor(backoff)) return MakeError(Reason::kCancelled, "interrupted");
    backoff = std::min(2 * backoff, kBackoffMax);
    const uint32_t before = answer->tokens;
    const v1::GenerateRequest rest = RestOf(request, *answer);
    if (before == 0) request.set_request_id(rest.request_id());
    ended = Hear(session, stop, rest, answer);
    if (answer->tokens == before) continue;
    news = std::chrono::steady_clock::now();
    backoff = kBackoffFirst;
  }
  return ended;
}

// Streams one answer to standard output.
absl::StatusOr<Answer> Ask(const Session& session, const StopSignal& stop,
                           const v1::GenerateRequest& request) {
  Answer answer;
  const absl::Status ended = HearToTheEnd(session, stop, request, &answer);
  fmt::print("\n");
  std::fflush(stdout);
  OCTAVO_RETURN_IF_ERROR(ended);
  return answer;
}

void PrintStats(const v1::Finished& finished) {
  const double decode = finished.total_seconds() - finished.time_to_first_token_seconds();
  const uint32_t tokens = finished.usage().completion_tokens();
  fmt::print(stderr, "[{} prompt tokens, {} tokens, first after {:.0f} ms, {:.1f} tokens/s]\n",
             finished.usage().prompt_tokens(), tokens, finished.time_to_first_token_seconds() * 1e3,
             decode > 0 && tokens > 1 ? (tokens - 1) / decode : 0.0);
}

v1::GenerateRequest RequestFor(const ChatFlags& flags) {
  v1::GenerateRequest request;
  request.set_model(flags.model);
  request.set_max_tokens(flags.max_tokens);
  request.set_temperature(flags.temperature);
  request.set_top_p(flags.top_p);
  request.set_top_k(flags.top_k);
  request.set_min_p(flags.min_p);
  request.set_repetition_penalty(flags.repetition_penalty);
  request.set_presence_penalty(flags.presence_penalty);
  request.set_frequency_penalty(flags.frequency_penalty);
  request.set_min_tokens(flags.min_tokens);
  request.mutable_stop()->Add(flags.stop.begin(), flags.stop.end());
  request.set_skip_special_tokens(true);
  if (flags.seed) request.set_seed(*flags.seed);
  return request;
}

void AddTurn(v1::GenerateRequest& request, const std::string& role, const std::string& content) {
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role(role);
  message->set_content(content);
}

absl::Status Chat(const Context& context, ChatFlags flags) {
  StopSignal stop;
  if (flags.cluster.coordinator.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(const ClusterRecord record,
                            ReadClusterFile(context.places.state_dir + "/cluster"));
    flags.cluster.coordinator = record.address;
  }
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Remote(context, flags.cluster));
  OCTAVO_ASSIGN_OR_RETURN(const auto models, ListModels(*session));
  if (models.models().empty()) {
    return MakeError(
        Reason::kNotReady, "no model is loaded", {},
        fmt::format("Load one with: octavo serve DIR --coordinator {}", flags.cluster.coordinator));
  }
  v1::GenerateRequest request = RequestFor(flags);
  if (!flags.system.empty()) AddTurn(request, "system", flags.system);
  const bool terminal = isatty(STDIN_FILENO) == 1 && flags.message.empty();
  std::string line = flags.message;
  while (true) {
    if (flags.message.empty()) {
      if (terminal) fmt::print("> ");
      std::fflush(stdout);
      if (!std::getline(std::cin, line)) break;
      if (line.empty()) continue;
    }
    AddTurn(request, "user", line);
    OCTAVO_ASSIGN_OR_RETURN(const Answer answer, Ask(*session, stop, request));
    if (flags.stats) PrintStats(answer.finished);
    AddTurn(request, "assistant", answer.text);
    if (!flags.message.empty()) break;
  }
  return absl::OkStatus();
}

// How the next token is chosen: docs/numerics.md, "Sampling".
void AddSampling(CLI::App& command, ChatFlags& flags) {
  command.add_option("--temperature", flags.temperature, "0: greedy")->capture_default_str();
  command.add_option("--top-p", flags.top_p, "Nucleus")->capture_default_str();
  command.add_option("--top-k", flags.top_k, "0: off")->capture_default_str();
  command.add_option("--min-p", flags.min_p, "Least share of the likeliest token's probability")
      ->capture_default_str();
  command
      .add_option("--repetition-penalty", flags.repetition_penalty,
                  "Above 1: against tokens of prompt and answer")
      ->capture_default_str();
  command
      .add_option("--presence-penalty", flags.presence_penalty,
                  "Against tokens of the answer, once")
      ->capture_default_str();
  command.add_option("--frequency-penalty", flags.frequency_penalty, "The same, per occurrence")
      ->capture_default_str();
  command.add_option("--seed", flags.seed, "Default: drawn");
}

}  // namespace

void AddChat(CLI::App& app, Context& context) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* command =
      app.add_subcommand("chat", "Talk to a served model; one message a line, end with Ctrl-D");
  command->add_option("--target,--coordinator", flags->cluster.coordinator,
                      "HOST:PORT (default: the cluster of `octavo up`)");
  command->add_option("--token-file", flags->cluster.token_file, "File with the cluster's token");
  command->add_option("--model", flags->model, "Default: the only one loaded");
  command->add_option("--system", flags->system, "System message");
  command->add_option("--message", flags->message, "Ask this one thing and leave");
  command->add_option("--max-tokens", flags->max_tokens, "Longest answer")->capture_default_str();
  command->add_option("--min-tokens", flags->min_tokens, "Shortest answer")->capture_default_str();
  command->add_option("--stop", flags->stop, "Text that ends an answer; may be given again")
      ->allow_extra_args(false);
  AddSampling(*command, *flags);
  command->add_flag("--stats", flags->stats,
                    "Tokens and times after each answer, on standard error");
  command->callback(
      [&context, flags] { context.action = [&context, flags] { return Chat(context, *flags); }; });
}

}  // namespace octavo
