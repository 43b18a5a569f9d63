// octavo eval ppl DIR --text FILE: perplexity of a checkpoint, through Score.
//
// The text is tokenized once with the tokenizer's default special tokens, cut into windows of 2,048
// tokens without overlap, the tail dropped; the result is exp of the mean window NLL
// (docs/numerics.md, quality measures).

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <numeric>
#include <stop_token>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "cli/model_client.h"
#include "cli/quantity.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "core/store/local_store.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/service/inference.grpc.pb.h"

namespace octavo {
namespace {

using Window = std::vector<int32_t>;

struct EvalFlags {
  ServeRequest request;
  ClusterFlags cluster;
  std::string text;
  std::string ids;
  int64_t windows = 0;  // 0: all
  int64_t window_tokens = 2048;
  bool json = false;
};

constexpr uint64_t kTextBytesMax = 48u << 20;  // one gRPC message
constexpr std::chrono::seconds kTokenizeTimeout{300};
constexpr std::chrono::seconds kScoreTimeout{3'600};

absl::StatusOr<std::vector<Window>> WindowsOfText(const Session& session, const std::string& model,
                                                  const EvalFlags& flags) {
  v1::TokenizeRequest request;
  request.set_model(model);
  OCTAVO_ASSIGN_OR_RETURN(*request.mutable_text(),
                          ReadWhole(LocalStore(), flags.text, kTextBytesMax));
  grpc::ClientContext context;
  SetTimeout(context, kTokenizeTimeout);
  v1::TokenizeResponse response;
  OCTAVO_RETURN_IF_ERROR(
      FromGrpc(v1::Inference::NewStub(session.channel())->Tokenize(&context, request, &response)));
  std::vector<Window> windows;
  for (int64_t at = 0; at + flags.window_tokens <= response.ids_size(); at += flags.window_tokens) {
    windows.emplace_back(response.ids().begin() + at,
                         response.ids().begin() + at + flags.window_tokens);
  }
  if (windows.empty()) {
    return MakeError(Reason::kUsage,
                     fmt::format("the text has {} tokens, less than one window of {}",
                                 response.ids_size(), flags.window_tokens),
                     {.file = flags.text}, "Give a longer text or a smaller --window");
  }
  return windows;
}

// JSONL: each line {"ids": [...]} is a window of its own.
absl::StatusOr<std::vector<Window>> WindowsOfIds(const EvalFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(const std::string text,
                          ReadWhole(LocalStore(), flags.ids, kTextBytesMax));
  std::vector<Window> windows;
  size_t at = 0;
  for (int line = 1; at < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const auto json =
        nlohmann::json::parse(text.begin() + static_cast<std::ptrdiff_t>(at),
                              text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    at = end + 1;
    const bool good = json.is_object() && json.contains("ids") && json["ids"].is_array() &&
                      json["ids"].size() >= 2 &&
                      std::all_of(json["ids"].begin(), json["ids"].end(),
                                  [](const auto& id) { return id.is_number_integer(); });
    if (!good) {
      return MakeError(Reason::kBadRequest,
                       fmt::format("line {} is not {{\"ids\": [two or more numbers]}}", line),
                       {.file = flags.ids});
    }
    windows.push_back(json["ids"].get<Window>());
  }
  return windows;
}

struct Score {
  double nll = 0;  // mean over the window's positions
  uint64_t tokens = 0;
};

absl::StatusOr<Score> ScoreWindow(const Session& session, const StopSignal& stop,
                                  const std::string& model, const Window& window) {
  v1::ScoreRequest request;
  request.set_model(model);
  request.mutable_token_ids()->mutable_ids()->Add(window.begin(), window.end());
  grpc::ClientContext context;
  SetTimeout(context, kScoreTimeout);
  std::stop_callback cancel(stop.token(), [&context] { context.TryCancel(); });
  v1::ScoreResponse response;
  const absl::Status status =
      FromGrpc(v1::Inference::NewStub(session.channel())->Score(&context, request, &response));
  if (stop.requested()) return MakeError(Reason::kCancelled, "interrupted");
  OCTAVO_RETURN_IF_ERROR(status);
  if (response.tokens() == 0) return MakeError(Reason::kInternal, "a window without a score");
  return Score{response.nll_sum() / response.tokens(), response.tokens()};
}

struct Result {
  std::vector<double> window_nll;  // means, so that two results can be compared window by window
  uint64_t tokens = 0;
  double seconds = 0;
};

absl::StatusOr<Result> ScoreAll(const Session& session, const StopSignal& stop,
                                const std::string& model, const EvalFlags& flags) {
  auto windows = flags.ids.empty() ? WindowsOfText(session, model, flags) : WindowsOfIds(flags);
  OCTAVO_RETURN_IF_ERROR(windows.status());
  if (flags.windows > 0 && windows->size() > static_cast<size_t>(flags.windows)) {
    windows->resize(static_cast<size_t>(flags.windows));
  }
  Result result;
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < windows->size(); ++i) {
    OCTAVO_ASSIGN_OR_RETURN(const Score score, ScoreWindow(session, stop, model, (*windows)[i]));
    result.window_nll.push_back(score.nll);
    result.tokens += score.tokens;
    fmt::print(stderr, "window {} of {}: NLL {:.5f}\n", i + 1, windows->size(), score.nll);
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

void Print(const Result& result, bool json) {
  const size_t windows = result.window_nll.size();
  const double nll = std::accumulate(result.window_nll.begin(), result.window_nll.end(), 0.0) /
                     static_cast<double>(windows);
  if (json) {
    const nlohmann::ordered_json object = {{"nll", nll},
                                           {"perplexity", std::exp(nll)},
                                           {"windows", windows},
                                           {"tokens", result.tokens},
                                           {"seconds", result.seconds},
                                           {"window_nll", result.window_nll}};
    fmt::print("{}\n", object.dump());
  } else {
    fmt::print("perplexity {:.4f} (NLL {:.5f}) over {} windows, {} tokens, {:.0f} tokens/s\n",
               std::exp(nll), nll, windows, result.tokens,
               static_cast<double>(result.tokens) / std::max(result.seconds, 1e-9));
  }
}

absl::Status Perplexity(const Context& context, EvalFlags flags) {
  StopSignal stop;
  flags.cluster.workers = std::max(flags.cluster.workers, flags.request.tensor_parallel);
  if (flags.request.max_model_len == 0) flags.request.max_model_len = flags.window_tokens;
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Open(context, flags.cluster));
  OCTAVO_ASSIGN_OR_RETURN(const v1::ListModelsResponse before, ListModels(*session));
  OCTAVO_ASSIGN_OR_RETURN(const v1::ModelInfo model, LoadModel(*session, stop, flags.request));
  const bool was_there = std::any_of(
      before.models().begin(), before.models().end(),
      [&model](const v1::ModelInfo& other) { return other.model_id() == model.model_id(); });
  const absl::StatusOr<Result> result = ScoreAll(*session, stop, model.model_id(), flags);
  if (session->local() == nullptr && !was_there) {
    const absl::Status unloaded = UnloadModel(*session, model.model_id());
    if (result.ok()) OCTAVO_RETURN_IF_ERROR(unloaded);
  }
  session->Stop();
  OCTAVO_RETURN_IF_ERROR(result.status());
  Print(*result, flags.json);
  return absl::OkStatus();
}

}  // namespace

void AddEval(CLI::App& app, Context& context) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = app.add_subcommand("eval", "How good a checkpoint is");
  command->require_subcommand(1);
  CLI::App* ppl = command->add_subcommand("ppl", "Perplexity");
  ppl->add_option("DIR", flags->request.dir, "A checkpoint folder, quantized or not")->required();
  CLI::Option* text = ppl->add_option("--text", flags->text, "Plain text file");
  ppl->add_option("--ids", flags->ids, "JSONL: each line {\"ids\": [...]} is a window")
      ->excludes(text);
  ppl->add_option("--windows", flags->windows, "Only the first so many")
      ->check(CLI::PositiveNumber);
  ppl->add_option("--window", flags->window_tokens, "Tokens of a window")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  ppl->add_option("--tp", flags->request.tensor_parallel, "Ranks of tensor parallelism")
      ->check(CLI::Range(1, 64));
  AddCacheOption(*ppl, flags->request);
  AddClusterFlags(*ppl, flags->cluster);
  ppl->add_flag("--json", flags->json, "The last line of output is one JSON object");
  ppl->callback([&context, flags] {
    if (flags->text.empty() && flags->ids.empty()) throw CLI::RequiredError("--text or --ids");
    context.action = [&context, flags] { return Perplexity(context, *flags); };
  });
}

}  // namespace octavo
