#include <algorithm>
#include <chrono>

#include "CLI/CLI.hpp"
#include "cli/eval.h"
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

constexpr uint64_t kTextBytesMax = 48u << 20;  // one gRPC message
constexpr std::chrono::seconds kTokenizeTimeout{300};

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

}  // namespace

void AddEvalFlags(CLI::App& command, EvalFlags& flags) {
  CLI::Option* text = command.add_option("--text", flags.text, "Plain text file");
  command.add_option("--ids", flags.ids, "JSONL: each line {\"ids\": [...]} is a window")
      ->excludes(text);
  command.add_option("--windows", flags.windows, "Only the first so many")
      ->check(CLI::PositiveNumber);
  command.add_option("--window", flags.window_tokens, "Tokens of a window")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  command.add_option("--tp", flags.request.tensor_parallel, "Ranks of tensor parallelism")
      ->check(CLI::Range(1, 64));
  AddPrecisionOptions(command, flags.request);
  AddClusterFlags(command, flags.cluster);
  command.add_flag("--json", flags.json, "The last line of output is one JSON object");
}

absl::StatusOr<std::vector<Window>> EvalWindows(const Session& session, const std::string& model,
                                                const EvalFlags& flags) {
  auto windows = flags.ids.empty() ? WindowsOfText(session, model, flags) : WindowsOfIds(flags);
  OCTAVO_RETURN_IF_ERROR(windows.status());
  if (flags.windows > 0 && windows->size() > static_cast<size_t>(flags.windows)) {
    windows->resize(static_cast<size_t>(flags.windows));
  }
  return windows;
}

absl::StatusOr<LoadedModel> LoadedModel::Load(const Session& session, const StopSignal& stop,
                                              const ServeRequest& request) {
  OCTAVO_ASSIGN_OR_RETURN(const v1::ListModelsResponse before, ListModels(session));
  OCTAVO_ASSIGN_OR_RETURN(const v1::ModelInfo model, LoadModel(session, stop, request));
  const bool was_there = std::any_of(
      before.models().begin(), before.models().end(),
      [&model](const v1::ModelInfo& other) { return other.model_id() == model.model_id(); });
  return LoadedModel(&session, model.model_id(), session.local() == nullptr && !was_there);
}

absl::Status LoadedModel::Unload() {
  if (!ours_) return absl::OkStatus();
  ours_ = false;
  return UnloadModel(*session_, id_);
}

}  // namespace octavo
