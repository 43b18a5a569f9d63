#include "coordinator/service/services.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "coordinator/control/control.h"
#include "coordinator/service/attach_service.h"
#include "core/rpc/auth.h"
#include "core/rpc/status.h"
#include "octavo/v1/service/inference.grpc.pb.h"
#include "octavo/v1/service/jobs.grpc.pb.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

constexpr uint32_t kWatchDefaultMs = 250;
constexpr uint32_t kWatchMinMs = 20;
constexpr uint32_t kWatchMaxMs = 10'000;
constexpr milliseconds kPoll{20};

// Sleeps; false if the caller went away or the server stops meanwhile.
bool Pause(const grpc::ServerContext& context, const std::atomic<bool>& stopping,
           milliseconds time) {
  const auto until = std::chrono::steady_clock::now() + time;
  while (!context.IsCancelled() && !stopping) {
    const auto left = until - std::chrono::steady_clock::now();
    if (left.count() <= 0) return true;
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(left, kPoll));
  }
  return false;
}

template <typename Message>
grpc::Status Answer(absl::StatusOr<Message> result, Message* response) {
  if (!result.ok()) return ToGrpc(result.status());
  *response = *std::move(result);
  return grpc::Status::OK;
}

class ClusterService final : public v1::Cluster::Service {
 public:
  ClusterService(Control* control, const CallGuard* guard) : control_(control), guard_(guard) {}
  grpc::Status ListWorkers(grpc::ServerContext* context, const v1::ListWorkersRequest*,
                           v1::ListWorkersResponse* response) override {
    if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
    *response = control_->ListWorkers();
    return grpc::Status::OK;
  }
  grpc::Status Drain(grpc::ServerContext* context, const v1::DrainWorkerRequest* request,
                     v1::WorkerInfo* response) override {
    if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
    return Answer(control_->DrainWorker(request->worker_id(), true), response);
  }
  grpc::Status Undrain(grpc::ServerContext* context, const v1::DrainWorkerRequest* request,
                       v1::WorkerInfo* response) override {
    if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
    return Answer(control_->DrainWorker(request->worker_id(), false), response);
  }

 private:
  Control* const control_;
  const CallGuard* const guard_;
};

class JobsService final : public v1::Jobs::Service {
 public:
  JobsService(Control* control, const CallGuard* guard, const std::atomic<bool>* stopping)
      : control_(control), guard_(guard), stopping_(stopping) {}

  grpc::Status Submit(grpc::ServerContext* context, const v1::SubmitJobRequest* request,
                      v1::Job* response) override {
    if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
    return Answer(control_->Submit(*request), response);
  }
  grpc::Status Get(grpc::ServerContext* context, const v1::GetJobRequest* request,
                   v1::Job* response) override {
    if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
    return Answer(control_->GetJob(request->id()), response);
  }
  grpc::Status List(grpc::ServerContext* context, const v1::ListJobsRequest*,
                    v1::ListJobsResponse* response) override {
    if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
    for (v1::Job& job : control_->ListJobs()) *response->add_jobs() = std::move(job);
    return grpc::Status::OK;
  }
  grpc::Status Cancel(grpc::ServerContext* context, const v1::CancelJobRequest* request,
                      v1::Job* response) override {
    if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
    return Answer(control_->CancelJob(request->id()), response);
  }

  grpc::Status Watch(grpc::ServerContext* context, const v1::WatchJobRequest* request,
                     grpc::ServerWriter<v1::Job>* writer) override {
    if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
    const uint32_t asked = request->interval_ms() == 0 ? kWatchDefaultMs : request->interval_ms();
    const milliseconds interval(std::clamp(asked, kWatchMinMs, kWatchMaxMs));
    while (true) {
      const absl::StatusOr<v1::Job> job = control_->GetJob(request->id());
      if (!job.ok()) return ToGrpc(job.status());
      if (!writer->Write(*job)) return grpc::Status::CANCELLED;
      if (Ended(*job)) return grpc::Status::OK;
      if (!WaitForNews(*context, *job, interval)) return grpc::Status::CANCELLED;
    }
  }

 private:
  static bool Ended(const v1::Job& job) {
    return job.state() == v1::JOB_DONE || job.state() == v1::JOB_FAILED ||
           job.state() == v1::JOB_CANCELLED;
  }

  // The interval, or less when the state changes.
  bool WaitForNews(const grpc::ServerContext& context, const v1::Job& last, milliseconds interval) {
    for (milliseconds waited{0}; waited < interval; waited += kPoll) {
      if (!Pause(context, *stopping_, std::min(kPoll, interval - waited))) return false;
      const absl::StatusOr<v1::Job> job = control_->GetJob(last.id());
      if (!job.ok() || job->state() != last.state()) return true;
    }
    return true;
  }

  Control* const control_;
  const CallGuard* const guard_;
  const std::atomic<bool>* const stopping_;
};

class ModelsService final : public v1::Models::Service {
 public:
  ModelsService(Control* control, const CallGuard* guard, const std::atomic<bool>* stopping)
      : control_(control), guard_(guard), stopping_(stopping) {}

  grpc::Status Load(grpc::ServerContext* context, const v1::LoadModelRequest* request,
                    grpc::ServerWriter<v1::ModelInfo>* writer) override {
    if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
    absl::StatusOr<v1::ModelInfo> model = control_->LoadModel(*request);
    std::string told;
    while (true) {
      if (!model.ok()) return ToGrpc(model.status());
      if (model->state() != told && !writer->Write(*model)) return grpc::Status::CANCELLED;
      told = model->state();
      if (told == "ready" || told == "failed") return grpc::Status::OK;
      if (!Pause(*context, *stopping_, kPoll)) return grpc::Status::CANCELLED;
      model = control_->GetModel(model->load());
    }
  }
  grpc::Status List(grpc::ServerContext* context, const v1::ListModelsRequest*,
                    v1::ListModelsResponse* response) override {
    if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
    for (v1::ModelInfo& model : control_->ListModels()) *response->add_models() = std::move(model);
    return grpc::Status::OK;
  }
  grpc::Status Unload(grpc::ServerContext* context, const v1::UnloadModelRequest* request,
                      v1::UnloadModelResponse*) override {
    if (grpc::Status refused = guard_->Check(*context); !refused.ok()) return refused;
    return ToGrpc(control_->UnloadModel(request->model_id()));
  }

 private:
  Control* const control_;
  const CallGuard* const guard_;
  const std::atomic<bool>* const stopping_;
};

}  // namespace

struct CoordinatorServices::State {
  State(Control* control, std::string token)
      : guard(std::move(token)),
        attach(control, &guard),
        cluster(control, &guard),
        jobs(control, &guard, &stopping),
        models(control, &guard, &stopping) {}

  const CallGuard guard;
  std::atomic<bool> stopping{false};
  AttachService attach;
  ClusterService cluster;
  JobsService jobs;
  ModelsService models;
};

CoordinatorServices::CoordinatorServices(Control* control, std::string token)
    : state_(std::make_unique<State>(control, std::move(token))) {}
CoordinatorServices::~CoordinatorServices() = default;

std::vector<grpc::Service*> CoordinatorServices::services() {
  return {&state_->attach, &state_->cluster, &state_->jobs, &state_->models};
}

void CoordinatorServices::Stop() {
  state_->stopping = true;
  state_->attach.Stop();
}

}  // namespace octavo
