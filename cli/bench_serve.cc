// octavo bench serve: a load generator for a served model.

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/bench.h"
#include "cli/load_figures.h"
#include "cli/load_grpc.h"
#include "cli/load_http.h"
#include "cli/load_plan.h"
#include "cli/load_run.h"
#include "cli/model_client.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// One request in flight for each thread.
constexpr uint32_t kClientsMax = 512;
constexpr uint32_t kOpenLoopClients = 256;

struct BenchServeFlags {
  ClusterFlags cluster;
  ServeRequest serve;
  std::string http;  // of a peer, which is measured instead
  LoadShape shape;
  LoadTarget target;
  LoadRun run;
  LoadGoals goals;  // in milliseconds until Run
  bool json = false;
};

// Opens a session, serves what was named, and has the clients send there.
absl::StatusOr<std::unique_ptr<Session>> Connect(const Context& context, const StopSignal& stop,
                                                 BenchServeFlags& flags) {
  flags.cluster.workers = std::max(flags.cluster.workers, flags.serve.tensor_parallel);
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Open(context, flags.cluster));
  if (!flags.serve.dir.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::ModelInfo model, LoadModel(*session, stop, flags.serve));
    flags.target.model = model.model_id();
  } else if (session->local() != nullptr) {
    return MakeError(Reason::kUsage, "neither a folder to serve nor a cluster that serves one", {},
                     "Name DIR, --coordinator HOST:PORT or --http URL");
  }
  flags.run.connect = [&stop, target = flags.target, raw = session.get()] {
    return GrpcSender(*raw, stop, target);
  };
  return session;
}

absl::Status Run(const Context& context, BenchServeFlags flags) {
  StopSignal stop;
  std::unique_ptr<Session> session;
  if (flags.http.empty()) {
    OCTAVO_ASSIGN_OR_RETURN(session, Connect(context, stop, flags));
  } else {
    flags.run.connect = [&] { return HttpSender(flags.http, stop, flags.target); };
  }
  flags.run.open_loop = flags.shape.rate > 0;
  if (flags.run.clients == 0) flags.run.clients = flags.run.open_loop ? kOpenLoopClients : 8;
  flags.goals.first_token_seconds *= 1e-3;
  flags.goals.gap_seconds *= 1e-3;
  const std::vector<PlannedRequest> plan = PlanLoad(flags.shape);
  const std::vector<RequestRecord> records = RunLoad(plan, flags.run, stop);
  if (stop.requested()) return MakeError(Reason::kCancelled, "interrupted");
  const LoadFigures figures = FiguresOf(records, flags.goals);
  if (flags.json) {
    nlohmann::ordered_json object = JsonOf(figures);
    object["requests"] = flags.shape.requests;
    object["rate"] = flags.shape.rate;
    object["clients"] = flags.run.clients;
    fmt::print("{}\n", object.dump());
  } else {
    fmt::print("{}", TextOf(figures));
  }
  return absl::OkStatus();
}

void AddShape(CLI::App& command, BenchServeFlags& flags) {
  LoadShape& shape = flags.shape;
  command.add_option("--requests", shape.requests, "How many")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command.add_option("--input-tokens", shape.input_tokens, "Random ids of a prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--output-tokens", shape.output_tokens, "Tokens of an answer")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command.add_option("--spread", shape.spread, "Lengths vary by this share, up and down")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  command
      .add_option("--rate", shape.rate,
                  "Requests a second, at random distances (default: the clients' own pace)")
      ->check(CLI::Range(1e-6, 1e6));
  command
      .add_option("--clients", flags.run.clients,
                  "Requests in flight, at most (default: 8; with --rate 256)")
      ->check(CLI::Range(1u, kClientsMax));
  command.add_option("--seed", shape.seed, "Of prompts, lengths and times")->capture_default_str();
  command.add_option("--timeout", flags.target.timeout_seconds, "Seconds of a request")
      ->check(CLI::Range(0.001, 86'400.0))
      ->capture_default_str();
  command.add_option("--temperature", flags.target.temperature, "0: greedy")->capture_default_str();
  command.add_option("--goal-first-token-ms", flags.goals.first_token_seconds,
                     "Goodput counts requests whose first token came this soon");
  command.add_option("--goal-token-ms", flags.goals.gap_seconds,
                     "... and whose others took this long on average");
}

}  // namespace

void AddBenchServe(CLI::App& bench, Context& context) {
  auto flags = std::make_shared<BenchServeFlags>();
  flags->run.clients = 0;
  CLI::App* command = bench.add_subcommand(
      "serve", "Sends a load to a served model: latencies, tokens a second, goodput");
  command->add_option("DIR", flags->serve.dir, "A checkpoint folder to serve first");
  command
      ->add_option("--http", flags->http,
                   "http://HOST:PORT of an OpenAI-style server (a peer) to load instead")
      ->check([](const std::string& url) {
        return url.starts_with("http://") ? "" : "a URL begins with http://";
      });
  command->add_option("--model", flags->target.model, "Default: the only one loaded");
  command->add_option("--tp", flags->serve.tensor_parallel, "Ranks of tensor parallelism")
      ->check(CLI::Range(1, 64));
  command->add_option("--max-model-len", flags->serve.max_model_len, "Longest sequence")
      ->check(CLI::PositiveNumber);
  AddPrecisionOptions(*command, flags->serve);
  AddShape(*command, *flags);
  AddClusterFlags(*command, flags->cluster);
  command->add_flag("--json", flags->json, "One JSON object");
  command->callback(
      [&context, flags] { context.action = [&context, flags] { return Run(context, *flags); }; });
}

}  // namespace octavo
