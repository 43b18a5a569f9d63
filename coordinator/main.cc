// octavo-coordinator: jobs, membership, planning, leases, publishing, serving groups, and the
// gateway. Composes its rooms bottom up and stops them in reverse.

#include <malloc.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "coordinator/control/control.h"
#include "coordinator/gateway/gateway.h"
#include "coordinator/router/model_table.h"
#include "coordinator/service/services.h"
#include "coordinator/state/sqlite_store.h"
#include "core/base/error.h"
#include "core/base/fault.h"
#include "core/base/log.h"
#include "core/base/program_life.h"
#include "core/base/status.h"
#include "core/metrics/exposer.h"
#include "core/metrics/metrics.h"
#include "core/metrics/version.h"
#include "core/rpc/server.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

struct Flags {
  std::string listen = "127.0.0.1:0";
  std::string metrics_listen = "127.0.0.1:0";
  std::string state;
  std::string log_level = "info";
  uint32_t lease_ms = kLeaseMs;
  uint32_t beat_ms = kBeatMs;
  int ready_fd = -1;
  int parent_fd = -1;
};

// Plans come and go; what they leave must go back to the system.
void BoundHeap() {
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_TRIM_THRESHOLD, 4 << 20);
}

// Until a stop signal. Members end from the last to the first.
absl::Status Run(const Flags& flags, const std::string& token) {
  OCTAVO_ASSIGN_OR_RETURN(const std::unique_ptr<SqliteStore> store, SqliteStore::Open(flags.state));
  // Lives as long as the process: its server takes seconds to stop, and holds nothing.
  auto* metrics = new Metrics(MetricHome::kCoordinator, "coordinator");
  OCTAVO_ASSIGN_OR_RETURN(std::unique_ptr<Exposer> exposer,
                          Exposer::Start(metrics, flags.metrics_listen));
  const Exposer* shown = exposer.release();
  ModelTable models;
  ControlOptions options;
  options.beat_ms = flags.beat_ms;
  options.lease_ms = flags.lease_ms;
  OCTAVO_ASSIGN_OR_RETURN(const std::unique_ptr<Control> control,
                          Control::Start(options, store.get(), &models, metrics));
  CoordinatorServices services(control.get(), token);
  Gateway gateway(&models, metrics, token);
  std::vector<grpc::Service*> all = services.services();
  all.push_back(gateway.service());
  OCTAVO_ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> server,
                          RpcServer::Start({.listen = flags.listen}, all));
  spdlog::info("listening on {}, metrics on {}", server->address(), shown->address());
  OCTAVO_RETURN_IF_ERROR(ReportReady(flags.ready_fd, server->address(), shown->address()));
  while (!WaitForStop(milliseconds(1000))) {
    metrics->UpdateMemory();
  }
  spdlog::info("stopping");
  gateway.Stop();
  services.Stop();
  server->Stop(milliseconds(300));
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  BlockStopSignals();
  BoundHeap();
  Flags flags;
  CLI::App app("Octavo's coordinator");
  app.set_version_flag("--version", std::string(kVersion));
  app.add_option("--listen", flags.listen, "host:port for gRPC; port 0: any free one");
  app.add_option("--metrics-listen", flags.metrics_listen, "host:port for GET /metrics");
  app.add_option("--state", flags.state, "folder of the journal")->required();
  app.add_option("--lease-ms", flags.lease_ms, "silence after which a worker is dead")
      ->check(CLI::Range(10, 600'000));
  app.add_option("--beat-ms", flags.beat_ms, "how often workers beat")
      ->check(CLI::Range(1, 600'000));
  app.add_option("--ready-fd", flags.ready_fd, "descriptor that is told the bound addresses");
  app.add_option("--parent-fd", flags.parent_fd, "exit at end of file of this descriptor");
  app.add_option("--log-level", flags.log_level, "trace, debug, info, warn, error, off");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : InfoOf(Reason::kUsage).exit_code;
  }
  const char* token = std::getenv("OCTAVO_TOKEN");
  const char* fault = std::getenv("OCTAVO_FAULT_POINT");
  if (fault != nullptr) ArmFaultPoint(fault);
  absl::Status status = InitLogging("octavo-coordinator", flags.log_level);
  if (status.ok() && flags.beat_ms >= flags.lease_ms) {
    status = MakeError(Reason::kUsage, "--beat-ms must be shorter than --lease-ms");
  }
  ExitWithParent(flags.parent_fd);
  if (status.ok()) status = Run(flags, token == nullptr ? "" : token);
  if (!status.ok()) fmt::print(stderr, "error: {}\n", std::string(status.message()));
  return ExitCodeOf(status);
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a write beyond the file-size limit is an error with a name
  const int code = octavo::Main(argc, argv);
  std::fflush(nullptr);
  std::_Exit(code);  // the metrics server's threads do not wait
}
