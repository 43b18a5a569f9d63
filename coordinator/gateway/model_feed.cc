#include "coordinator/gateway/model_feed.h"

#include <set>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "core/rpc/channel.h"
#include "core/rpc/status.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "octavo/v1/service/coordinator.grpc.pb.h"
#include "octavo/v1/service/inference.grpc.pb.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kInterval{100};
constexpr milliseconds kTimeout{2'000};

bool IsBeside(const v1::ModelInfo& model) {
  return model.successor() || model.state() == "draining";
}

}  // namespace

class ModelFeed::Impl {
 public:
  Impl(const std::string& coordinator, const std::string& token, ModelTable* table)
      : table_(table) {
    const auto channel = MakeChannel(coordinator, token);
    models_ = v1::Models::NewStub(channel);
    cluster_ = v1::Cluster::NewStub(channel);
  }

  absl::Status Look() {
    v1::ListModelsResponse models;
    v1::ListWorkersResponse workers;
    grpc::ClientContext first, second;
    SetTimeout(first, kTimeout);
    SetTimeout(second, kTimeout);
    OCTAVO_RETURN_IF_ERROR(FromGrpc(models_->List(&first, {}, &models)));
    OCTAVO_RETURN_IF_ERROR(FromGrpc(cluster_->ListWorkers(&second, {}, &workers)));
    TakeModels(models);
    std::vector<std::string> addresses;
    for (const v1::WorkerInfo& worker : workers.workers()) {
      // One that drains may still remember a request.
      const bool attached = worker.state() == "ready" || worker.state() == "draining";
      if (attached) addresses.push_back(worker.hello().engine_address());
    }
    table_->SetWorkers(std::move(addresses));
    return absl::OkStatus();
  }

  // Those beside first: a group that gives its place up serves what it has all the while.
  void TakeModels(const v1::ListModelsResponse& models) {
    std::vector<v1::ModelInfo> beside;
    std::set<std::string> present;
    for (const v1::ModelInfo& model : models.models()) {
      if (IsBeside(model)) beside.push_back(model);
    }
    table_->SetBeside(std::move(beside));
    for (const v1::ModelInfo& model : models.models()) {
      if (IsBeside(model)) continue;
      present.insert(model.model_id());
      table_->Put(model);
    }
    for (const v1::ModelInfo& model : table_->List()) {
      if (!present.contains(model.model_id())) table_->Remove(model.model_id());
    }
  }

  void Loop(const std::stop_token& stop) {
    bool there = true;
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(kInterval);
      const absl::Status status = Look();
      if (status.ok() != std::exchange(there, status.ok())) {
        spdlog::info("the coordinator {} ({})", there ? "answers again" : "does not answer",
                     std::string(status.message()));
      }
    }
  }

 private:
  ModelTable* const table_;
  std::unique_ptr<v1::Models::Stub> models_;
  std::unique_ptr<v1::Cluster::Stub> cluster_;
};

ModelFeed::ModelFeed(std::unique_ptr<Impl> impl)
    : impl_(std::move(impl)), thread_([this](const std::stop_token& stop) { impl_->Loop(stop); }) {}

ModelFeed::~ModelFeed() = default;

absl::StatusOr<std::unique_ptr<ModelFeed>> ModelFeed::Start(const std::string& coordinator,
                                                            const std::string& token,
                                                            ModelTable* table,
                                                            milliseconds patience) {
  auto impl = std::make_unique<Impl>(coordinator, token, table);
  const auto until = std::chrono::steady_clock::now() + patience;
  while (true) {
    const absl::Status status = impl->Look();
    if (status.ok()) return std::unique_ptr<ModelFeed>(new ModelFeed(std::move(impl)));
    if (ReasonOf(status) != Reason::kUnreachable || std::chrono::steady_clock::now() > until) {
      return WithContext(status, "the coordinator at " + coordinator);
    }
    std::this_thread::sleep_for(kInterval);
  }
}

}  // namespace octavo
