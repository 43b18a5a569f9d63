// octavo eval ppl DIR --text FILE: perplexity of a checkpoint, through Score; and the eval
// commands.
//
// The text is tokenized once with the tokenizer's default special tokens, cut into windows of 2,048
// tokens without overlap, the tail dropped; the result is exp of the mean window NLL
// (docs/numerics.md, quality measures). With --pseudo-quant a checkpoint that is not quantized is
// measured as a recipe would make it.

#include "cli/eval.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <stop_token>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/service/inference.grpc.pb.h"

namespace octavo {
namespace {

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
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<Window> windows, EvalWindows(session, model, flags));
  Result result;
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < windows.size(); ++i) {
    OCTAVO_ASSIGN_OR_RETURN(const Score score, ScoreWindow(session, stop, model, windows[i]));
    result.window_nll.push_back(score.nll);
    result.tokens += score.tokens;
    fmt::print(stderr, "window {} of {}: NLL {:.5f}\n", i + 1, windows.size(), score.nll);
  }
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

void Print(const Result& result, const EvalFlags& flags) {
  const size_t windows = result.window_nll.size();
  const double nll = std::accumulate(result.window_nll.begin(), result.window_nll.end(), 0.0) /
                     static_cast<double>(windows);
  if (flags.json) {
    nlohmann::ordered_json object = {{"nll", nll},
                                     {"perplexity", std::exp(nll)},
                                     {"windows", windows},
                                     {"tokens", result.tokens},
                                     {"seconds", result.seconds},
                                     {"window_nll", result.window_nll}};
    if (!flags.pseudo_quant.recipe.empty()) object["recipe"] = flags.pseudo_quant.recipe;
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
  // Outlives the session: what the workers of a local cluster read is removed when they are gone.
  std::unique_ptr<PseudoQuantized> quantized;
  OCTAVO_ASSIGN_OR_RETURN(quantized, PseudoQuantized::Prepare(flags, stop));
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Open(context, flags.cluster));
  if (!flags.pseudo_quant.recipe.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(flags.request.dir, quantized->Make(*session, stop));
  }
  OCTAVO_ASSIGN_OR_RETURN(LoadedModel model, LoadedModel::Load(*session, stop, flags.request));
  const absl::StatusOr<Result> result = ScoreAll(*session, stop, model.id(), flags);
  const absl::Status unloaded = model.Unload();
  session->Stop();
  OCTAVO_RETURN_IF_ERROR(result.status());
  OCTAVO_RETURN_IF_ERROR(unloaded);
  Print(*result, flags);
  return absl::OkStatus();
}

}  // namespace

void AddEval(CLI::App& app, Context& context) {
  CLI::App* command = app.add_subcommand("eval", "How good a checkpoint is");
  command->require_subcommand(1);
  const auto add = [&](CLI::App* of, const std::shared_ptr<EvalFlags>& flags,
                       absl::Status (*run)(const Context&, EvalFlags)) {
    AddEvalFlags(*of, *flags);
    of->callback([&context, flags, run] {
      if (flags->text.empty() && flags->ids.empty()) throw CLI::RequiredError("--text or --ids");
      context.action = [&context, flags, run] { return run(context, *flags); };
    });
  };
  auto ppl = std::make_shared<EvalFlags>();
  CLI::App* perplexity = command->add_subcommand("ppl", "Perplexity");
  perplexity->add_option("DIR", ppl->request.dir, "A checkpoint folder, quantized or not")
      ->required();
  perplexity->add_option("--pseudo-quant", ppl->pseudo_quant.recipe,
                         "As if quantized by this recipe: a quantized copy is made and removed");
  perplexity->add_option("--scratch", ppl->pseudo_quant.scratch,
                         "Folder for that copy (default: the system's for temporary files)");
  AddCalibrationFlags(*perplexity, ppl->pseudo_quant.calibration);
  add(perplexity, ppl, Perplexity);
  auto pair = std::make_shared<EvalFlags>();
  CLI::App* compare =
      command->add_subcommand("compare", "How far a checkpoint is from another one");
  compare->add_option("REFERENCE", pair->reference, "The checkpoint to compare with")->required();
  compare->add_option("DIR", pair->request.dir, "A checkpoint made from it")->required();
  compare->add_flag("--layers", pair->layers,
                    "Also how far the residual stream is off after every layer");
  add(compare, pair, CompareModels);
}

}  // namespace octavo
