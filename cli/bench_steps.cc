// bench decode, bench prefill: one sequence on one rank with all cores, over the machine's rates.

#include <algorithm>

#include "cli/bench.h"
#include "cli/model_client.h"
#include "cli/stop_signal.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/rpc/status.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "octavo/v1/service/inference.grpc.pb.h"

namespace octavo {
namespace {

constexpr uint32_t kDecodeTokens = 64;
constexpr uint32_t kPrefillTokens = 1024;

// What one token costs: bytes of weights read, operations of the linear layers.
struct ModelCost {
  uint64_t weight_bytes = 0;   // everything but the embedding's rows (a tied head reads them all)
  double linear_flops = 0;     // inside the layers, per token
  double head_flops = 0;       // per position with logits
  double attention_flops = 0;  // per pair of positions
};

ModelCost CostOf(const Checkpoint& checkpoint) {
  ModelCost cost;
  const v1::ModelSpec& model = checkpoint.model;
  for (const v1::ModelTensor& tensor : checkpoint.tensors) {
    const v1::TensorSpec& spec = tensor.spec();
    const bool embedding = tensor.role() == v1::EMBEDDING;
    const bool ignored = tensor.role() == v1::IGNORED && !IsScaleName(spec.name());
    if (ignored || (embedding && !model.tied_embeddings())) continue;
    // A token visits some of the experts.
    const bool expert = tensor.expert() >= 0 || IsStack(tensor.role());
    const double share = !expert ? 1.0
                                 : static_cast<double>(model.experts_per_token()) /
                                       static_cast<double>(model.expert_count());
    cost.weight_bytes +=
        static_cast<uint64_t>(share * static_cast<double>(spec.end() - spec.begin()));
    if (spec.shape_size() != 2 || tensor.role() == v1::IGNORED) continue;
    const double flops = 2.0 * share * static_cast<double>(spec.shape(0) * spec.shape(1));
    (embedding || tensor.role() == v1::LM_HEAD ? cost.head_flops : cost.linear_flops) += flops;
  }
  cost.attention_flops = 4.0 * static_cast<double>(model.head_count() * model.head_dim()) *
                         static_cast<double>(model.layer_count());
  return cost;
}

absl::StatusOr<v1::Finished> Generate(const Session& session, const std::string& model,
                                      uint32_t prompt_tokens, uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.set_model(model);
  for (uint32_t i = 0; i < prompt_tokens; ++i) {
    request.mutable_token_ids()->add_ids(static_cast<int32_t>(1 + i * 37 % 200));
  }
  request.set_max_tokens(max_tokens);
  request.set_ignore_eos(true);
  request.set_seed(1);
  request.set_no_prefix_cache(true);  // every round has the same prompt
  grpc::ClientContext context;
  auto reader = v1::Inference::NewStub(session.channel())->Generate(&context, request);
  v1::GenerateResponse response;
  v1::Finished finished;
  while (reader->Read(&response)) {
    if (response.has_finished()) finished = response.finished();
  }
  OCTAVO_RETURN_IF_ERROR(FromGrpc(reader->Finish()));
  if (finished.usage().completion_tokens() != max_tokens) {
    return MakeError(
        Reason::kInternal,
        fmt::format("{} tokens instead of {}", finished.usage().completion_tokens(), max_tokens));
  }
  return finished;
}

struct Served {
  ModelCost cost;
  std::string dir;
  std::vector<v1::Finished> rounds;
};

absl::StatusOr<Served> ServeRounds(const Context& context, const BenchFlags& flags,
                                   uint32_t prompt_tokens, uint32_t max_tokens) {
  Served served;
  OCTAVO_ASSIGN_OR_RETURN(served.dir, BenchSource(flags));
  if (!flags.recipe.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(served.dir, BenchQuantized(context, flags, served.dir));
  }
  OCTAVO_ASSIGN_OR_RETURN(const Checkpoint checkpoint, OpenCheckpoint(served.dir));
  served.cost = CostOf(checkpoint);
  StopSignal stop;
  ClusterFlags cluster;
  cluster.workers = 1;
  cluster.memory = "12GiB";
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Open(context, cluster));
  OCTAVO_ASSIGN_OR_RETURN(
      const v1::ModelInfo model,
      LoadModel(*session, stop, {.dir = served.dir, .tensor_parallel = 1, .max_model_len = 2048}));
  OCTAVO_RETURN_IF_ERROR(Generate(*session, model.model_id(), 8, 4).status());  // warm
  for (int round = 0; round < flags.rounds; ++round) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::Finished finished,
                            Generate(*session, model.model_id(), prompt_tokens, max_tokens));
    served.rounds.push_back(finished);
  }
  return served;
}

}  // namespace

absl::StatusOr<BenchJudge> BenchDecode(const Context& context, const BenchFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(const Served served, ServeRounds(context, flags, 16, kDecodeTokens));
  double best = 0;  // tokens per second
  for (const v1::Finished& finished : served.rounds) {
    const double seconds = finished.total_seconds() - finished.time_to_first_token_seconds();
    if (seconds > 0) best = std::max(best, (kDecodeTokens - 1) / seconds);
  }
  return [served, best](const ProbeRates& probe) {
    BenchRow row;
    row.name = "decode";
    row.value = best * static_cast<double>(served.cost.weight_bytes) * 1e-9;
    row.unit = "GB/s";
    row.bound = probe.memory_read_all * 1e-9;
    row.bound_name = "memory read";
    row.ratio = row.value / row.bound;
    row.bar = ">= 0.5";
    row.details = {{"model", served.dir},
                   {"weight_bytes", served.cost.weight_bytes},
                   {"tokens_per_second", best}};
    return row;
  };
}

absl::StatusOr<BenchJudge> BenchPrefill(const Context& context, const BenchFlags& flags) {
  OCTAVO_ASSIGN_OR_RETURN(const Served served, ServeRounds(context, flags, kPrefillTokens, 1));
  double seconds = 0;
  for (const v1::Finished& finished : served.rounds) {
    const double time = finished.time_to_first_token_seconds();
    if (seconds == 0 || time < seconds) seconds = time;
  }
  const double tokens = kPrefillTokens;
  const double flops = tokens * served.cost.linear_flops + served.cost.head_flops +
                       tokens * (tokens + 1) / 2 * served.cost.attention_flops;
  return [served, seconds, tokens, flops](const ProbeRates& probe) {
    BenchRow row;
    row.name = "prefill";
    row.value = flops / seconds * 1e-9;
    row.unit = "GFLOPS";
    row.bound = probe.fma_flops_all * 1e-9;
    row.bound_name = "multiply-add";
    row.ratio = row.value / row.bound;
    row.bar = ">= 0.25";
    row.details = {{"model", served.dir},
                   {"prompt_tokens", kPrefillTokens},
                   {"tokens_per_second", tokens / seconds}};
    return row;
  };
}

}  // namespace octavo
