// What clients ask of the Control: each decides under the lock and is durable when it returns.

#include <utility>

#include "coordinator/control/control.h"

namespace octavo {

v1::ListWorkersResponse Control::ListWorkers() {
  MutexLock lock(mutex_);
  v1::ListWorkersResponse response;
  for (const auto& [id, member] : members_.members()) {
    v1::WorkerInfo& worker = *response.add_workers();
    *worker.mutable_hello() = member.hello;
    worker.set_state(std::string(NameOf(member.state)));
    worker.set_rss_peak_bytes(member.rss_peak_bytes);
    const auto found = attached_.find(id);
    if (found == attached_.end()) continue;
    worker.set_units_done(found->second.units_done);
    groups_->Describe(worker);
  }
  return response;
}

absl::StatusOr<v1::Job> Control::Submit(const v1::SubmitJobRequest& request) {
  MutexLock lock(mutex_);
  absl::StatusOr<v1::Job> job = jobs_->Submit(request);
  Flush().IgnoreError();
  if (!job.ok()) return job;
  return jobs_->Get(job->id());  // failed, if the journal did not take it
}

absl::StatusOr<v1::Job> Control::GetJob(const std::string& id) {
  MutexLock lock(mutex_);
  return jobs_->Get(id);
}

std::vector<v1::Job> Control::ListJobs() {
  MutexLock lock(mutex_);
  return jobs_->List();
}

absl::StatusOr<v1::Job> Control::CancelJob(const std::string& id) {
  MutexLock lock(mutex_);
  absl::StatusOr<v1::Job> job = jobs_->Cancel(id);
  Flush().IgnoreError();
  return job;
}

absl::StatusOr<v1::ModelInfo> Control::LoadModel(const v1::LoadModelRequest& request) {
  MutexLock lock(mutex_);
  absl::StatusOr<v1::ModelInfo> model = groups_->Load(request);
  if (const absl::Status kept = Flush(); !kept.ok() && model.ok()) {
    groups_->Unload(model->model_id()).IgnoreError();
    outbox_.writes.clear();
    return kept;
  }
  Post([] {});  // the next round starts forming
  return model;
}

absl::StatusOr<v1::ModelInfo> Control::GetModel(const std::string& model_id) {
  MutexLock lock(mutex_);
  return groups_->Get(model_id);
}

std::vector<v1::ModelInfo> Control::ListModels() {
  MutexLock lock(mutex_);
  return groups_->List();
}

absl::Status Control::UnloadModel(const std::string& model_id) {
  MutexLock lock(mutex_);
  const absl::Status status = groups_->Unload(model_id);
  const absl::Status kept = Flush();
  return status.ok() ? kept : status;
}

}  // namespace octavo
