// What clients ask of the Control: each decides under the lock and is durable when it returns.

#include <utility>

#include "coordinator/control/control.h"
#include "coordinator/control/group_journal.h"
#include "core/base/error.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {

v1::ListWorkersResponse Control::ListWorkers() {
  MutexLock lock(mutex_);
  v1::ListWorkersResponse response;
  for (const auto& [id, member] : members_.members()) {
    *response.add_workers() = Describe(id, member);
  }
  return response;
}

v1::WorkerInfo Control::Describe(const std::string& id, const Membership::Member& member) const {
  v1::WorkerInfo worker;
  *worker.mutable_hello() = member.hello;
  worker.set_state(std::string(NameOf(member.state)));
  worker.set_rss_peak_bytes(member.rss_peak_bytes);
  const auto found = attached_.find(id);
  if (found == attached_.end()) return worker;
  if (members_.draining(id)) worker.set_state("draining");
  worker.set_units_done(found->second.units_done);
  worker.set_units_leased(jobs_->LeasedCount(id));
  groups_->Describe(worker);
  return worker;
}

absl::StatusOr<v1::WorkerInfo> Control::DrainWorker(const std::string& worker_id, bool draining) {
  MutexLock lock(mutex_);
  const Membership::Member* member = members_.Find(worker_id);
  if (member == nullptr || !attached_.contains(worker_id)) {
    return MakeError(Reason::kNotFound, fmt::format("there is no worker '{}'", worker_id), {},
                     "octavo cluster status lists them");
  }
  if (members_.draining(worker_id) != draining) {
    const StateStore::Write write = PutDraining(worker_id, draining);
    OCTAVO_RETURN_IF_ERROR(store_->Apply({&write, 1}));
    members_.SetDraining(worker_id, draining);
    spdlog::info("worker {} {}", worker_id, draining ? "drains" : "takes work again");
    Post([] {});
  }
  return Describe(worker_id, *member);
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
    groups_->Forget(model->load());
    outbox_.writes.clear();
    return kept;
  }
  Post([] {});  // the next round starts forming
  return model;
}

absl::StatusOr<v1::ModelInfo> Control::GetModel(uint64_t load) {
  MutexLock lock(mutex_);
  return groups_->Get(load);
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
