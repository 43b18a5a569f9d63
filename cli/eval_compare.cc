// octavo eval compare REFERENCE DIR --text FILE: what quantizing cost. Both models are loaded, each
// over workers of its own, and compared position by position over the whole vocabulary
// (compare.proto). Errors are standard errors over windows; differences are paired, window by
// window.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <stop_token>

#include "cli/eval.h"
#include "cli/statistics.h"
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

// Means of every window, and all positions' divergences.
struct Compared {
  std::vector<double> reference_nll;
  std::vector<double> nll;
  std::vector<double> divergence;
  std::vector<double> agreement;  // share of positions with the same most likely token
  std::vector<double> positions;
  std::vector<v1::LayerDistance> layers;  // sums over all windows; where asked for
  double seconds = 0;

  void AddLayers(const v1::Comparison& window) {
    layers.resize(static_cast<size_t>(window.layers_size()));
    for (size_t i = 0; i < layers.size(); ++i) {
      const v1::LayerDistance& part = window.layers(static_cast<int>(i));
      layers[i].set_squared_difference(layers[i].squared_difference() + part.squared_difference());
      layers[i].set_squared_reference(layers[i].squared_reference() + part.squared_reference());
    }
  }
};

// L2 of the difference over that of the reference.
double RelativeDistance(const v1::LayerDistance& sums) {
  return sums.squared_reference() > 0
             ? std::sqrt(sums.squared_difference() / sums.squared_reference())
             : 0;
}

double MeanNll(const google::protobuf::RepeatedField<float>& logprobs) {
  double sum = 0;
  for (const float logprob : logprobs) sum -= static_cast<double>(logprob);
  return sum / logprobs.size();
}

absl::StatusOr<v1::Comparison> CompareWindow(const Session& session, const StopSignal& stop,
                                             const std::string& model, const std::string& reference,
                                             const Window& window, bool layers) {
  v1::CompareRequest request;
  request.set_layers(layers);
  request.set_model(model);
  request.set_reference(reference);
  request.mutable_token_ids()->mutable_ids()->Add(window.begin(), window.end());
  grpc::ClientContext context;
  SetTimeout(context, kScoreTimeout);
  std::stop_callback cancel(stop.token(), [&context] { context.TryCancel(); });
  v1::Comparison response;
  const absl::Status status =
      FromGrpc(v1::Inference::NewStub(session.channel())->Compare(&context, request, &response));
  if (stop.requested()) return MakeError(Reason::kCancelled, "interrupted");
  OCTAVO_RETURN_IF_ERROR(status);
  const int positions = static_cast<int>(window.size()) - 1;
  if (response.logprobs_size() != positions || response.divergences_size() != positions ||
      response.reference_logprobs_size() != positions) {
    return MakeError(Reason::kInternal, "a window with positions missing");
  }
  return response;
}

absl::StatusOr<Compared> CompareAll(const Session& session, const StopSignal& stop,
                                    const std::string& model, const std::string& reference,
                                    const EvalFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(const auto windows, EvalWindows(session, reference, flags));
  if (flags.ids.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(const auto others, EvalWindows(session, model, flags));
    if (others != windows) {
      return MakeError(Reason::kUsage, "the two models cut the text into different tokens",
                       {.file = flags.text}, "Compare models with the same tokenizer");
    }
  }
  Compared all;
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < windows.size(); ++i) {
    OCTAVO_ASSIGN_OR_RETURN(
        const v1::Comparison window,
        CompareWindow(session, stop, model, reference, windows[i], flags.layers));
    all.AddLayers(window);
    const std::vector<double> divergences(window.divergences().begin(), window.divergences().end());
    const auto count = static_cast<double>(divergences.size());
    all.reference_nll.push_back(MeanNll(window.reference_logprobs()));
    all.nll.push_back(MeanNll(window.logprobs()));
    all.divergence.push_back(MeanOf(divergences).mean);
    all.agreement.push_back(1.0 - window.disagreements_size() / count);
    all.positions.insert(all.positions.end(), divergences.begin(), divergences.end());
    fmt::print(stderr,
               "window {} of {}: NLL {:.5f} and {:.5f}, KL {:.6f}, same top token {:.2f} %\n",
               i + 1, windows.size(), all.reference_nll.back(), all.nll.back(),
               all.divergence.back(), 100 * all.agreement.back());
  }
  all.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return all;
}

nlohmann::ordered_json JsonOf(const MeanError& figure) {
  nlohmann::ordered_json json = {{"mean", figure.mean}, {"standard_error", nullptr}};
  if (figure.error.has_value()) json["standard_error"] = *figure.error;
  return json;
}

nlohmann::ordered_json JsonOf(const std::vector<double>& window_nll) {
  const double nll = MeanOf(window_nll).mean;
  return {{"nll", nll}, {"perplexity", std::exp(nll)}, {"window_nll", window_nll}};
}

void PrintJson(const Compared& all) {
  nlohmann::ordered_json divergence = JsonOf(MeanOf(all.divergence));
  divergence["median"] = Quantile(all.positions, 0.5);
  divergence["p99"] = Quantile(all.positions, 0.99);
  divergence["max"] = Quantile(all.positions, 1.0);
  divergence["windows"] = all.divergence;
  nlohmann::ordered_json agreement = JsonOf(MeanOf(all.agreement));
  agreement["windows"] = all.agreement;
  nlohmann::ordered_json object = {
      {"reference", JsonOf(all.reference_nll)},
      {"model", JsonOf(all.nll)},
      {"nll_difference", JsonOf(PairedDifference(all.reference_nll, all.nll))},
      {"kl_divergence", divergence},
      {"top1_agreement", agreement},
      {"windows", all.nll.size()},
      {"tokens", all.positions.size()},
      {"seconds", all.seconds}};
  if (!all.layers.empty()) {
    object["layers"] = nlohmann::ordered_json::array();
    for (const v1::LayerDistance& layer : all.layers) {
      object["layers"].push_back(RelativeDistance(layer));
    }
  }
  fmt::print("{}\n", object.dump());
}

// " +- e", scaled; nothing where one window has no error.
std::string ErrorText(const MeanError& figure, double scale, int digits) {
  return figure.error.has_value() ? fmt::format(" +- {:.{}f}", scale * *figure.error, digits) : "";
}

void Print(const Compared& all) {
  const MeanError difference = PairedDifference(all.reference_nll, all.nll);
  const MeanError divergence = MeanOf(all.divergence);
  const MeanError agreement = MeanOf(all.agreement);
  const double reference = MeanOf(all.reference_nll).mean;
  const double model = MeanOf(all.nll).mean;
  fmt::print("reference        perplexity {:.4f} (NLL {:.5f})\n", std::exp(reference), reference);
  fmt::print("model            perplexity {:.4f} (NLL {:.5f})\n", std::exp(model), model);
  fmt::print("NLL difference   {:+.5f}{} (perplexity {:+.3f} %)\n", difference.mean,
             ErrorText(difference, 1, 5), 100 * std::expm1(difference.mean));
  fmt::print("KL divergence    {:.6f}{} nats (median {:.6f}, 99 % {:.6f}, largest {:.4f})\n",
             divergence.mean, ErrorText(divergence, 1, 6), Quantile(all.positions, 0.5),
             Quantile(all.positions, 0.99), Quantile(all.positions, 1.0));
  fmt::print("same top token   {:.3f}{} %\n", 100 * agreement.mean, ErrorText(agreement, 100, 3));
  if (!all.layers.empty()) fmt::print("after layer      residual stream, relative L2 distance\n");
  for (size_t i = 0; i < all.layers.size(); ++i) {
    fmt::print("{:>16} {:.5f}\n", i, RelativeDistance(all.layers[i]));
  }
  fmt::print(
      "over {} windows, {} positions, {:.0f} tokens/s; whole vocabulary, nothing approximated; "
      "+- is one standard error over windows\n",
      all.nll.size(), all.positions.size(),
      static_cast<double>(all.positions.size()) / std::max(all.seconds, 1e-9));
}

std::string FolderName(const std::string& dir) {
  const std::filesystem::path path = std::filesystem::absolute(dir).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

// Loads the model under test beside the reference.
absl::StatusOr<Compared> CompareBeside(const Session& session, const StopSignal& stop,
                                       const std::string& reference, const ServeRequest& request,
                                       const EvalFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(LoadedModel model, LoadedModel::Load(session, stop, request));
  absl::StatusOr<Compared> result = CompareAll(session, stop, model.id(), reference, flags);
  const absl::Status unloaded = model.Unload();
  if (result.ok()) OCTAVO_RETURN_IF_ERROR(unloaded);
  return result;
}

absl::StatusOr<Compared> LoadAndCompare(const Session& session, const StopSignal& stop,
                                        const EvalFlags& flags) {
  ServeRequest reference_request = flags.request;
  reference_request.dir = flags.reference;
  // How keys, values and the head are held is about the other.
  reference_request.cache_type = v1::CACHE_AUTO;
  reference_request.kv_scale_one = false;
  reference_request.head_type = v1::HEAD_AS_STORED;
  ServeRequest request = flags.request;
  // Two folders of one name, or one folder twice.
  if (FolderName(flags.reference) == FolderName(request.dir)) {
    request.model_id = FolderName(request.dir) + "-compared";
  }
  OCTAVO_ASSIGN_OR_RETURN(LoadedModel reference,
                          LoadedModel::Load(session, stop, reference_request));
  absl::StatusOr<Compared> result = CompareBeside(session, stop, reference.id(), request, flags);
  const absl::Status unloaded = reference.Unload();
  if (result.ok()) OCTAVO_RETURN_IF_ERROR(unloaded);
  return result;
}

}  // namespace

absl::Status CompareModels(const Context& context, EvalFlags flags) {
  StopSignal stop;
  flags.cluster.workers = std::max(flags.cluster.workers, 2 * flags.request.tensor_parallel);
  if (flags.request.max_model_len == 0) flags.request.max_model_len = flags.window_tokens;
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Open(context, flags.cluster));
  const absl::StatusOr<Compared> result = LoadAndCompare(*session, stop, flags);
  session->Stop();
  OCTAVO_RETURN_IF_ERROR(result.status());
  if (flags.json) {
    PrintJson(*result);
  } else {
    Print(*result);
  }
  return absl::OkStatus();
}

}  // namespace octavo
