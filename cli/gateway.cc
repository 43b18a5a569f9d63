// octavo gateway: answers clients of a cluster in a process of its own, so that their streams go on
// when the coordinator dies.

#include "coordinator/gateway/gateway.h"

#include <memory>

#include "CLI/CLI.hpp"
#include "cli/cluster_file.h"
#include "cli/context.h"
#include "cli/session.h"
#include "cli/stop_signal.h"
#include "coordinator/gateway/model_feed.h"
#include "coordinator/gateway/model_list.h"
#include "coordinator/router/model_table.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/metrics/exposer.h"
#include "core/metrics/metrics.h"
#include "core/rpc/server.h"
#include "fmt/format.h"
#include "grpcpp/impl/codegen/service_type.h"
#include "nlohmann/json.hpp"

namespace octavo {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPatience{10'000};
constexpr milliseconds kStopGrace{300};

struct GatewayFlags {
  ClusterFlags cluster;
  std::string host = "127.0.0.1";
  int metrics_port = 0;
  bool json = false;
};

void Print(const GatewayFlags& flags, const std::string& address, const std::string& metrics) {
  if (flags.json) {
    const nlohmann::ordered_json object = {
        {"address", address}, {"coordinator", flags.cluster.coordinator}, {"metrics", metrics}};
    fmt::print("{}\n", object.dump());
  } else {
    fmt::print("gateway at {} (metrics {}) of the cluster at {}\n", address, metrics,
               flags.cluster.coordinator);
  }
  std::fflush(stdout);
}

// Until a stop signal.
absl::Status RunGateway(const Context& context, const GatewayFlags& flags) {
  StopSignal stop;
  OCTAVO_ASSIGN_OR_RETURN(
      const std::string token,
      FindToken(context.places, flags.cluster.coordinator, flags.cluster.token_file));
  Metrics metrics(MetricHome::kCoordinator, "gateway");
  OCTAVO_ASSIGN_OR_RETURN(
      const std::unique_ptr<Exposer> exposer,
      Exposer::Start(&metrics, fmt::format("{}:{}", flags.host, flags.metrics_port)));
  ModelTable models;
  OCTAVO_ASSIGN_OR_RETURN(const std::unique_ptr<ModelFeed> feed,
                          ModelFeed::Start(flags.cluster.coordinator, token, &models, kPatience));
  Gateway gateway(&models, &metrics, token);
  const std::unique_ptr<grpc::Service> list = MakeModelList(&models, token);
  grpc::Service* services[] = {gateway.service(), list.get()};
  OCTAVO_ASSIGN_OR_RETURN(
      const std::unique_ptr<RpcServer> server,
      RpcServer::Start({.listen = fmt::format("{}:{}", flags.host, flags.cluster.port)}, services));
  OCTAVO_RETURN_IF_ERROR(RegisterToken(context.places, server->address(), token));
  Print(flags, server->address(), exposer->address());
  while (!stop.WaitFor(milliseconds(1000))) metrics.UpdateMemory();
  ForgetToken(context.places, server->address());
  gateway.Stop();
  server->Stop(kStopGrace);
  return absl::OkStatus();
}

}  // namespace

void AddGateway(CLI::App& app, Context& context) {
  auto flags = std::make_shared<GatewayFlags>();
  CLI::App* command =
      app.add_subcommand("gateway", "Answer a cluster's clients in a process of its own");
  AddCoordinatorFlags(*command, flags->cluster);
  command->get_option("--coordinator")->required();
  command->add_option("--host", flags->host, "Address to listen at")->capture_default_str();
  command->add_option("--grpc", flags->cluster.port, "Port of gRPC (default: any)")
      ->check(CLI::Range(1, 65535));
  command->add_option("--metrics", flags->metrics_port, "Port of GET /metrics (default: any)")
      ->check(CLI::Range(1, 65535));
  command->add_flag("--json", flags->json, "One JSON object when it answers");
  command->callback([&context, flags] {
    context.action = [&context, flags] { return RunGateway(context, *flags); };
  });
}

}  // namespace octavo
