// octavo cluster status | drain | undrain

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/context.h"
#include "cli/model_client.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "core/base/error.h"
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
  nlohmann::ordered_json ranks = nlohmann::ordered_json::array();
  for (const v1::HeldRank& rank : worker.ranks()) {
    ranks.push_back({{"model", rank.model_id()},
                     {"rank", rank.rank()},
                     {"group_epoch", rank.group_epoch()},
                     {"bytes", rank.bytes()}});
  }
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
          {"units_leased", worker.units_leased()},
          {"ranks", ranks}};
}

std::string RanksText(const v1::WorkerInfo& worker) {
  std::string text;
  for (const v1::HeldRank& rank : worker.ranks()) {
    text += fmt::format("{}{} rank {}", text.empty() ? "" : ", ", rank.model_id(), rank.rank());
  }
  return text.empty() ? "-" : text;
}

void PrintText(const v1::ListWorkersResponse& workers, const v1::ListModelsResponse& models) {
  fmt::print("{:<14} {:>8} {:<8} {:<10} {:>7} {:>10} {:>10} {:>7}  {}\n", "worker", "pid", "state",
             "isa", "threads", "memory", "peak", "units", "model");
  for (const v1::WorkerInfo& worker : workers.workers()) {
    const v1::Hello& hello = worker.hello();
    fmt::print("{:<14.14} {:>8} {:<8} {:<10} {:>7} {:>10} {:>10} {:>7}  {}\n", hello.worker_id(),
               hello.pid(), worker.state(), hello.isa(), hello.thread_count(),
               HumanBytes(hello.memory_bytes()), HumanBytes(worker.rss_peak_bytes()),
               worker.units_done(), RanksText(worker));
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
                                {"successor", model.successor()},
                                {"tensor_parallel", model.tensor_parallel()},
                                {"group_epoch", model.group_epoch()},
                                {"max_model_len", model.max_model_len()},
                                {"format", model.format()},
                                {"kv_cache", CacheName(model.cache_type())}});
  }
  fmt::print("{}\n", object.dump());
  return absl::OkStatus();
}

constexpr std::chrono::milliseconds kDrainPoll{100};

// Drains a worker and waits until nothing runs on it, or takes that back.
absl::Status DrainWorker(const Context& context, const ClusterFlags& flags,
                         const std::string& worker_id, bool drain, std::chrono::seconds patience) {
  StopSignal stop;
  OCTAVO_ASSIGN_OR_RETURN(auto session, Session::Remote(context, flags));
  const auto cluster = v1::Cluster::NewStub(session->channel());
  v1::DrainWorkerRequest request;
  request.set_worker_id(worker_id);
  const auto until = std::chrono::steady_clock::now() + patience;
  while (true) {
    grpc::ClientContext call;
    SetTimeout(call, std::chrono::seconds(10));
    v1::WorkerInfo worker;
    OCTAVO_RETURN_IF_ERROR(FromGrpc(drain ? cluster->Drain(&call, request, &worker)
                                          : cluster->Undrain(&call, request, &worker)));
    if (!drain || (worker.ranks().empty() && worker.units_leased() == 0)) {
      fmt::print("worker {} {}\n", worker_id, drain ? "is drained" : "takes work again");
      return absl::OkStatus();
    }
    if (std::chrono::steady_clock::now() > until) {
      return MakeError(Reason::kDeadline,
                       fmt::format("worker {} still has {} ranks and {} units", worker_id,
                                   worker.ranks_size(), worker.units_leased()),
                       {}, "It goes on draining; ask again, or take it back with undrain");
    }
    if (stop.WaitFor(kDrainPoll)) return MakeError(Reason::kCancelled, "interrupted");
  }
}

}  // namespace

void AddCluster(CLI::App& app, Context& context) {
  struct Flags {
    ClusterFlags cluster;
    bool json = false;
    std::string worker;
    int timeout_s = 660;  // longer than a group may take to drain
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
  const auto add_drain = [&](const char* name, const char* text, bool drain) {
    CLI::App* sub = command->add_subcommand(name, text);
    AddCoordinatorFlags(*sub, flags->cluster);
    sub->get_option("--coordinator")->required();
    sub->add_option("WORKER", flags->worker, "Its id, as `cluster status` tells it")->required();
    if (drain) {
      sub->add_option("--timeout", flags->timeout_s, "Seconds to wait until nothing runs on it")
          ->check(CLI::Range(0, 86'400))
          ->capture_default_str();
    }
    sub->callback([&context, flags, drain] {
      context.action = [&context, flags, drain] {
        return DrainWorker(context, flags->cluster, flags->worker, drain,
                           std::chrono::seconds(flags->timeout_s));
      };
    });
  };
  add_drain("drain", "No new work for a worker: models on it move to others", true);
  add_drain("undrain", "A drained worker takes work again", false);
}

}  // namespace octavo
