// octavo-worker: runs tasks, and is one rank of a serving group. Composes its rooms bottom up and
// stops them in reverse.

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "core/base/error.h"
#include "core/base/fault.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/base/program_life.h"
#include "core/base/status.h"
#include "core/metrics/exposer.h"
#include "core/metrics/metrics.h"
#include "core/metrics/version.h"
#include "core/plan/layer_plan.h"
#include "core/rpc/server.h"
#include "fmt/format.h"
#include "grpcpp/impl/codegen/service_type.h"
#include "kernels/isa.h"
#include "worker/device/probe.h"
#include "worker/load_model.h"
#include "worker/local_address.h"
#include "worker/serve/rank_host.h"
#include "worker/service/attach_client.h"
#include "worker/service/engine_service.h"
#include "worker/service/follow_streams.h"
#include "worker/service/task_runner.h"
#include "worker/stage/calibrate.h"
#include "worker/stage/quantize.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

struct Flags {
  std::string coordinator;
  std::string listen = "127.0.0.1:0";
  std::string advertise;
  std::string metrics_listen = "127.0.0.1:0";
  uint64_t memory = 1ull << 30;
  int threads = 0;
  std::string isa = "auto";
  std::string collectives = "auto";
  int grace_s = static_cast<int>(RankHost::kOrphanGrace.count());
  int ready_fd = -1;
  int parent_fd = -1;
  std::string log_level = "info";
};

constexpr uint64_t kMemoryMin = 192ull << 20;
// Tasks at once, beyond the threads: one may wait for a read and one for a write.
constexpr int kSlotsWaiting = 2;
constexpr int kSlotsMax = 8;

// Freed buffers go back to the system, and threads share heaps: resident memory stays what is used.
void BoundHeap() {
  mallopt(M_ARENA_MAX, 2);
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  mallopt(M_TRIM_THRESHOLD, 1 << 20);
}

absl::StatusOr<Isa> ChooseIsa(const std::string& name) {
  const std::optional<Isa> isa = ParseIsa(name);
  if (isa.has_value() && IsSupported(*isa)) return *isa;
  return MakeError(isa.has_value() ? Reason::kHardware : Reason::kUsage,
                   fmt::format("--isa {} is not something this machine runs", name), {},
                   fmt::format("use auto or {}", Name(BestIsa())));
}

// A running worker. Members end from the last to the first.
class Worker {
 public:
  explicit Worker(const Flags& flags) : flags_(flags), metrics_(MetricHome::kWorker, "worker") {}

  absl::Status Start(const std::string& token) {
    OCTAVO_ASSIGN_OR_RETURN(const Isa isa, ChooseIsa(flags_.isa));
    if (flags_.memory < kMemoryMin) {
      return MakeError(Reason::kUsage, fmt::format("--memory {} is too little", flags_.memory), {},
                       "give at least 192MiB");
    }
    OCTAVO_ASSIGN_OR_RETURN(exposer_, Exposer::Start(&metrics_, flags_.metrics_listen));
    quantize_.emplace(
        QuantizeStage::Options{.buffer_bytes = TaskBufferBytes(flags_.memory), .isa = isa});
    calibrate_.emplace(CalibrateStage::Options{
        .memory_bytes = CalibratingBytes(flags_.memory), .threads = Threads(), .isa = isa});
    OCTAVO_RETURN_IF_ERROR(Listen(token, isa));
    Attach(token, isa);
    return absl::OkStatus();
  }

  // Until a stop signal, or something that ends the worker.
  absl::Status Wait() {
    bool told = false;
    while (!WaitForStop(milliseconds(20))) {
      if (stopping_) return absl::OkStatus();
      if (failed_) {
        MutexLock lock(mutex_);
        return failure_;
      }
      if (attached_ && !std::exchange(told, true)) {
        OCTAVO_RETURN_IF_ERROR(
            ReportReady(flags_.ready_fd, server_->address(), exposer_->address()));
      }
    }
    return absl::OkStatus();
  }

  void Stop() {
    attach_->Stop();
    tasks_.reset();
    ranks_->Detached();
    server_->Stop(milliseconds(500));
  }

 private:
  absl::Status Listen(const std::string& token, Isa isa) {
    const int threads = Threads();
    // The collective's address is known once the server listens; the server needs the host. Both
    // have the same host part, which does not depend on the port.
    OCTAVO_ASSIGN_OR_RETURN(const std::string advertised,
                            AdvertisedAddress(flags_.advertise, flags_.listen, flags_.coordinator));
    OCTAVO_ASSIGN_OR_RETURN(const HostPort self, SplitAddress(advertised));
    ranks_.emplace(
        RankHost::Options{
            .host = self.host,
            .collectives = flags_.collectives == "tcp" ? Collectives::kTcp : Collectives::kAuto,
            .isa = isa,
            .load =
                [isa, threads](const v1::LoadRank& load, Communicator* communicator) {
                  return LoadModel(load, communicator, {.threads = threads, .isa = isa});
                },
            .link =
                [token](const std::vector<std::string>& addresses) {
                  return MakeFollowerLink(addresses, token);
                },
            .grace = std::chrono::seconds(flags_.grace_s)},
        [this](v1::Report report) { Send(report); }, &metrics_);
    engine_service_ = MakeEngineService(&*ranks_, &metrics_, token);
    grpc::Service* services[] = {engine_service_.get()};
    OCTAVO_ASSIGN_OR_RETURN(server_, RpcServer::Start({.listen = flags_.listen}, services));
    return absl::OkStatus();
  }

  void Attach(const std::string& token, Isa isa) {
    tasks_.emplace(std::min(Threads() + kSlotsWaiting, kSlotsMax), TaskHooks());
    AttachClient::Options options;
    options.coordinator = flags_.coordinator;
    options.token = token;
    v1::Hello& hello = options.hello;
    hello.set_worker_id(RandomHex(8));
    hello.set_pid(getpid());
    hello.set_engine_address(
        AdvertisedAddress(flags_.advertise, server_->address(), flags_.coordinator)
            .value_or(server_->address()));
    hello.set_metrics_address(exposer_->address());
    hello.set_device("cpu");
    hello.set_isa(std::string(Name(isa)));
    hello.set_memory_bytes(flags_.memory);
    hello.set_thread_count(static_cast<uint32_t>(Threads()));
    hello.set_version(std::string(kVersion));
    spdlog::info("worker {}: listening on {}, {} threads, {}", hello.worker_id(),
                 server_->address(), Threads(), hello.isa());
    attach_.emplace(std::move(options),
                    AttachClient::Handlers{
                        .attached =
                            [this] {
                              metrics_.Add(metric::kWorkerReconnects);
                              ranks_->Attached();
                              tasks_->Attached();
                              attached_ = true;
                            },
                        .detached =
                            [this](const absl::Status& why) {
                              tasks_->Detached();
                              const bool fenced = !why.ok() && ReasonOf(why) == Reason::kFenced;
                              fenced ? ranks_->Detached() : ranks_->Orphaned();
                            },
                        .echoed =
                            [this](std::chrono::nanoseconds took) {
                              metrics_.Observe(metric::kHeartbeatRtt,
                                               std::chrono::duration<double>(took).count());
                            },
                        .directive = [this](v1::Directive directive) { Obey(directive); },
                        .fatal = [this](absl::Status status) { Fail(std::move(status)); }});
    attach_->Start();
  }

  TaskRunner::Hooks TaskHooks() {
    return {.run = [this](const v1::Task& task,
                          std::stop_token stop) { return RunTask(task, std::move(stop)); },
            .prefetch = [this](const v1::Task& task) { quantize_->Prefetch(task); },
            .sync =
                [this] {
                  absl::Status status = quantize_->SyncTouched();
                  status.Update(calibrate_->SyncTouched());
                  return status;
                },
            .send = [this](v1::Report report) { Send(report); }};
  }

  absl::StatusOr<v1::Receipt> RunTask(const v1::Task& task, std::stop_token stop) {
    const auto start = std::chrono::steady_clock::now();
    absl::StatusOr<v1::Receipt> receipt = CalibrateStage::Does(task.unit().kind())
                                              ? calibrate_->Run(task, std::move(stop))
                                              : quantize_->Run(task, std::move(stop));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    metrics_.Set(metric::kWorkerBufferBytes, static_cast<double>(quantize_->buffer_bytes_in_use() +
                                                                 calibrate_->bytes_in_use()));
    metrics_.Add(metric::kWorkerUnits, 1, {receipt.ok() ? "done" : "failed"});
    if (!receipt.ok()) return receipt;
    metrics_.Observe(metric::kWorkerUnitSeconds, took.count());
    metrics_.Add(metric::kWorkerBytes, static_cast<double>(receipt->bytes_read()), {"read"});
    metrics_.Add(metric::kWorkerBytes, static_cast<double>(receipt->bytes_written()), {"write"});
    metrics_.Add(metric::kWorkerStageSeconds, receipt->read_seconds(), {"read"});
    metrics_.Add(metric::kWorkerStageSeconds, receipt->cast_seconds(), {"cast"});
    metrics_.Add(metric::kWorkerStageSeconds, receipt->write_seconds(), {"write"});
    return receipt;
  }

  void Obey(v1::Directive& directive) {
    switch (directive.kind_case()) {
      case v1::Directive::kTask:
        return tasks_->Add(std::move(*directive.mutable_task()));
      case v1::Directive::kRevoke:
        tasks_->Revoke(directive.revoke().job_id());
        return calibrate_->DropIdle();
      case v1::Directive::kLoad:
        calibrate_->DropIdle();
        return ranks_->Load(directive.load());
      case v1::Directive::kAbort:
        return ranks_->AbortGroup(directive.abort());
      case v1::Directive::kUnload:
        return ranks_->Unload(directive.unload());
      case v1::Directive::kDrain:
        return ranks_->Drain(directive.drain());
      case v1::Directive::kValue:
        return ranks_->Deliver(directive.value());
      case v1::Directive::kShutdown:
        spdlog::info("told to stop: {}", directive.shutdown().why());
        stopping_ = true;
        return;
      default:
        spdlog::warn("a directive that this version does not know was ignored");
    }
  }

  void Send(const v1::Report& report) {
    if (attach_.has_value()) attach_->Send(report);
  }

  void Fail(absl::Status status) {
    {
      MutexLock lock(mutex_);
      failure_ = std::move(status);
    }
    failed_ = true;
  }

  int Threads() const {
    return flags_.threads > 0 ? flags_.threads
                              : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }

  const Flags flags_;
  Metrics metrics_;
  Mutex mutex_;
  absl::Status failure_ OCTAVO_GUARDED_BY(mutex_);
  std::atomic<bool> failed_ = false;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> attached_ = false;
  std::unique_ptr<Exposer> exposer_;
  std::optional<QuantizeStage> quantize_;
  std::optional<CalibrateStage> calibrate_;
  std::optional<AttachClient> attach_;
  std::optional<RankHost> ranks_;
  std::unique_ptr<grpc::Service> engine_service_;
  std::unique_ptr<RpcServer> server_;
  std::optional<TaskRunner> tasks_;
};

std::string FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

int Finish(const absl::Status& status) {
  if (!status.ok()) fmt::print(stderr, "error: {}\n", std::string(status.message()));
  return ExitCodeOf(status);
}

absl::Status RunWorker(const Flags& flags) {
  OCTAVO_RETURN_IF_ERROR(InitLogging("octavo-worker", flags.log_level));
  if (flags.coordinator.empty()) {
    return MakeError(Reason::kUsage, "--coordinator is missing", {}, "give HOST:PORT");
  }
  ArmFaultPoint(FromEnvironment("OCTAVO_FAULT_POINT"));
  ExitWithParent(flags.parent_fd);
  // Lives as long as the process: its metrics server takes seconds to stop, and holds nothing.
  auto* worker = new Worker(flags);
  OCTAVO_RETURN_IF_ERROR(worker->Start(FromEnvironment("OCTAVO_TOKEN")));
  const absl::Status status = worker->Wait();
  worker->Stop();
  return status;
}

absl::Status RunProbeCommand(const ProbeOptions& options, const std::string& isa_name) {
  OCTAVO_RETURN_IF_ERROR(InitLogging("octavo-worker", "warn"));
  ProbeOptions complete = options;
  OCTAVO_ASSIGN_OR_RETURN(complete.isa, ChooseIsa(isa_name));
  OCTAVO_ASSIGN_OR_RETURN(const ProbeResult result, RunProbe(complete));
  fmt::print("{}\n", ToJson(result));
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  BoundHeap();
  BlockStopSignals();
  Flags flags;
  CLI::App app("Octavo's worker: quantizes units and serves as one rank of a group.");
  app.set_version_flag("--version", std::string(kVersion));
  app.add_option("--coordinator", flags.coordinator, "coordinator to attach to, HOST:PORT");
  app.add_option("--listen", flags.listen, "where to serve the Engine, HOST:PORT");
  app.add_option("--advertise", flags.advertise, "where others reach it, HOST:PORT");
  app.add_option("--metrics-listen", flags.metrics_listen, "where to serve /metrics, HOST:PORT");
  app.add_option("--memory", flags.memory, "resident memory this worker may use")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--threads", flags.threads, "computing threads (0: all cores)")
      ->check(CLI::Range(0, 1024));
  app.add_option("--isa", flags.isa, "auto, reference, avx2 or avx512");
  app.add_option("--collectives", flags.collectives,
                 "auto: ranks of one host meet in shared memory; tcp: over sockets")
      ->check(CLI::IsMember({"auto", "tcp"}));
  app.add_option("--orphan-grace", flags.grace_s,
                 "seconds that a serving group goes on after its coordinator died")
      ->check(CLI::Range(0, 3600));
  app.add_option("--ready-fd", flags.ready_fd, "descriptor told when attached");
  app.add_option("--parent-fd", flags.parent_fd, "exit when this descriptor ends");
  app.add_option("--log-level", flags.log_level, "trace, debug, info, warn, error or off");
  ProbeOptions probe;
  bool json = false;
  CLI::App* probe_command = app.add_subcommand("probe", "measures this machine; prints JSON");
  probe_command->add_flag("--json", json, "print JSON (it always does)");
  probe_command->add_option("--dir", probe.dir, "where the disk is measured");
  probe_command->add_option("--seconds", probe.seconds, "time to take, roughly");
  probe_command->add_option("--threads", probe.threads, "threads (0: one per processor)");
  probe_command->add_option("--isa", flags.isa, "auto, reference, avx2 or avx512");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : ExitCodeOf(MakeError(Reason::kUsage, "flags"));
  }
  return Finish(probe_command->parsed() ? RunProbeCommand(probe, flags.isa) : RunWorker(flags));
}

}  // namespace
}  // namespace octavo

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a write beyond the file-size limit is an error with a name
  const int code = octavo::Main(argc, argv);
  std::fflush(nullptr);
  std::_Exit(code);  // the metrics server's threads do not wait
}
