// octavo serve DIR: load a checkpoint over workers and answer requests.

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/cluster_file.h"
#include "cli/context.h"
#include "cli/model_client.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

struct ServeFlags {
  ServeRequest request;
  ClusterFlags cluster;
  std::string unload;
  bool json = false;
};

void Print(const Session& session, const v1::ModelInfo& model, bool json) {
  if (json) {
    nlohmann::ordered_json object = {{"address", session.address()},
                                     {"model", model.model_id()},
                                     {"state", model.state()},
                                     {"format", model.format()},
                                     {"kv_cache", CacheName(model.cache_type())},
                                     {"tensor_parallel", model.tensor_parallel()},
                                     {"max_model_len", model.max_model_len()},
                                     {"max_batched_tokens", model.max_batched_tokens()},
                                     {"max_sequences", model.max_sequences()},
                                     {"kv_cache_tokens", model.kv_cache_tokens()},
                                     {"workers", nlohmann::ordered_json::array()}};
    for (const std::string& worker : model.worker_ids()) object["workers"].push_back(worker);
    if (session.local() != nullptr) {
      object["metrics"] = session.local()->processes().front().metrics;
    }
    fmt::print("{}\n", object.dump());
  } else {
    fmt::print(
        "{} ({}, {} cache) is served at {} by {} rank{}, up to {} tokens each, {} in the cache\n",
        model.model_id(), model.format(), CacheName(model.cache_type()), session.address(),
        model.tensor_parallel(), model.tensor_parallel() == 1 ? "" : "s", model.max_model_len(),
        model.kv_cache_tokens());
  }
  std::fflush(stdout);
}

// On a resident cluster the model stays there; a cluster of our own serves until Ctrl-C.
absl::Status Serve(const Context& context, ServeFlags flags) {
  StopSignal stop;
  flags.cluster.workers = std::max(flags.cluster.workers, flags.request.tensor_parallel);
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Open(context, flags.cluster));
  if (!flags.unload.empty()) return UnloadModel(*session, flags.unload);
  OCTAVO_ASSIGN_OR_RETURN(const v1::ModelInfo model, LoadModel(*session, stop, flags.request));
  if (session->local() == nullptr) {
    Print(*session, model, flags.json);
    return absl::OkStatus();
  }
  OCTAVO_RETURN_IF_ERROR(
      RegisterToken(context.places, session->address(), session->local()->token()));
  Print(*session, model, flags.json);
  absl::Status health;
  while (!stop.WaitFor(std::chrono::milliseconds(500))) {
    health = session->Health();
    if (!health.ok()) break;
  }
  ForgetToken(context.places, session->address());
  session->Stop();
  return health;
}

}  // namespace

void AddServe(CLI::App& app, Context& context) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve a checkpoint over gRPC");
  CLI::Option* dir = command->add_option("DIR", flags->request.dir, "A checkpoint folder");
  command->add_option("--tp", flags->request.tensor_parallel, "Ranks of tensor parallelism")
      ->check(CLI::Range(1, 64));
  command->add_option("--max-model-len", flags->request.max_model_len, "Longest sequence in tokens")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--max-batched-tokens", flags->request.max_batched_tokens,
                   "Tokens of one step, of all sequences (default: 256)")
      ->check(CLI::Range(1, kBatchedTokensLimit));
  command
      ->add_option("--max-sequences", flags->request.max_sequences,
                   "Sequences that run at once (default: 64)")
      ->check(CLI::Range(1, kBatchedTokensLimit));
  command
      ->add_option(
          "--kv-cache-tokens", flags->request.kv_cache_tokens,
          "The cache holds at most so many, of all sequences (default: what memory leaves)")
      ->check(CLI::PositiveNumber);
  command->add_option("--model-id", flags->request.model_id,
                      "What requests call it (default: the folder's name)");
  command->add_flag("--replace", flags->request.replace,
                    "Take the place of what the model id serves: load beside it, then take its "
                    "requests; those that run finish where they are");
  AddPrecisionOptions(*command, flags->request);
  AddClusterFlags(*command, flags->cluster);
  command->get_option("--replace")->needs("--coordinator");
  command->add_option("--grpc", flags->cluster.port, "Port of a cluster of our own (default: any)")
      ->check(CLI::Range(1, 65535));
  command->add_option("--unload", flags->unload, "Instead: take this model off the cluster")
      ->needs("--coordinator")
      ->excludes(dir);
  command->add_flag("--json", flags->json, "One JSON object when the model answers");
  command->callback([&context, flags] {
    if (flags->unload.empty() && flags->request.dir.empty()) {
      throw CLI::RequiredError("DIR");
    }
    context.action = [&context, flags] { return Serve(context, *flags); };
  });
}

}  // namespace octavo
