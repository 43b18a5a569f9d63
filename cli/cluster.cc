// octavo cluster status

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "cli/model_client.h"
#include "cli/session.h"
#include "core/base/status.h"
#include "core/checkpoint/summary.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "fmt/format.h"
#include "grpcpp/grpcpp.h"
#include "nlohmann/json.hpp"
#include "octavo/v1/service/coordinator.grpc.pb.h"
#include "octavo/v1/service/inference.grpc.pb.h"

namespace octavo {
namespace {

nlohmann::ordered_json WorkerJson(const v1::WorkerInfo& worker) {
  const v1::Hello& hello = worker.hello();
  return {{"id", hello.worker_id()},
          {"pid", hello.pid()},
          {"state", worker.state()},
          {"engine_address", hello.engine_address()},
          {"metrics_address", hello.metrics_address()},
          {"device", hello.device()},
          {"isa", hello.isa()},
          {"memory_bytes", hello.memory_bytes()},
          {"threads", hello.thread_count()},
          {"rss_peak_bytes", worker.rss_peak_bytes()},
          {"units_done", worker.units_done()},
          {"model", worker.model_id()},
          {"rank", worker.rank()}};
}

void PrintText(const v1::ListWorkersResponse& workers, const v1::ListModelsResponse& models) {
  fmt::print("{:<14} {:>8} {:<8} {:<10} {:>7} {:>10} {:>10} {:>7}  {}\n", "worker", "pid", "state",
             "isa", "threads", "memory", "peak", "units", "model");
  for (const v1::WorkerInfo& worker : workers.workers()) {
    const v1::Hello& hello = worker.hello();
    fmt::print(
        "{:<14.14} {:>8} {:<8} {:<10} {:>7} {:>10} {:>10} {:>7}  {}\n", hello.worker_id(),
        hello.pid(), worker.state(), hello.isa(), hello.thread_count(),
        HumanBytes(hello.memory_bytes()), HumanBytes(worker.rss_peak_bytes()), worker.units_done(),
        worker.model_id().empty() ? "-"
                                  : fmt::format("{} rank {}", worker.model_id(), worker.rank()));
  }
  for (const v1::ModelInfo& model : models.models()) {
    fmt::print("model {}: {}, {}, {} cache, over {} rank{}, up to {} tokens\n", model.model_id(),
               model.state(), model.format(), CacheName(model.cache_type()),
               model.tensor_parallel(), model.tensor_parallel() == 1 ? "" : "s",
               model.max_model_len());
  }
}

absl::Status ShowCluster(const Context& context, const ClusterFlags& flags, bool json) {
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Remote(context, flags));
  grpc::ClientContext workers_call, models_call;
  SetTimeout(workers_call, std::chrono::seconds(10));
  SetTimeout(models_call, std::chrono::seconds(10));
  v1::ListWorkersResponse workers;
  OCTAVO_RETURN_IF_ERROR(
      FromGrpc(v1::Cluster::NewStub(session->channel())->ListWorkers(&workers_call, {}, &workers)));
  v1::ListModelsResponse models;
  OCTAVO_RETURN_IF_ERROR(
      FromGrpc(v1::Models::NewStub(session->channel())->List(&models_call, {}, &models)));
  if (!json) {
    PrintText(workers, models);
    return absl::OkStatus();
  }
  nlohmann::ordered_json object = {{"address", session->address()},
                                   {"workers", nlohmann::ordered_json::array()},
                                   {"models", nlohmann::ordered_json::array()}};
  for (const v1::WorkerInfo& worker : workers.workers()) {
    object["workers"].push_back(WorkerJson(worker));
  }
  for (const v1::ModelInfo& model : models.models()) {
    object["models"].push_back({{"id", model.model_id()},
                                {"dir", model.model_dir()},
                                {"state", model.state()},
                                {"tensor_parallel", model.tensor_parallel()},
                                {"group_epoch", model.group_epoch()},
                                {"max_model_len", model.max_model_len()},
                                {"format", model.format()},
                                {"kv_cache", CacheName(model.cache_type())}});
  }
  fmt::print("{}\n", object.dump());
  return absl::OkStatus();
}

}  // namespace

void AddCluster(CLI::App& app, Context& context) {
  struct Flags {
    ClusterFlags cluster;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("cluster", "A running cluster");
  command->require_subcommand(1);
  CLI::App* status = command->add_subcommand("status", "Its workers and models");
  AddCoordinatorFlags(*status, flags->cluster);
  status->get_option("--coordinator")->required();
  status->add_flag("--json", flags->json, "One JSON object");
  status->callback([&context, flags] {
    context.action = [&context, flags] {
      return ShowCluster(context, flags->cluster, flags->json);
    };
  });
}

}  // namespace octavo
