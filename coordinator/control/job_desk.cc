#include "coordinator/control/job_desk.h"

#include <algorithm>
#include <utility>

#include "coordinator/control/job_journal.h"
#include "core/base/error.h"
#include "core/base/failure.h"
#include "core/base/log.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr char kResumeHint[] = "Submit it again to resume";

bool Ended(v1::JobState state) {
  return state == v1::JOB_DONE || state == v1::JOB_FAILED || state == v1::JOB_CANCELLED;
}

}  // namespace

void JobDesk::Journal(const Entry& entry) { parts_.outbox->writes.push_back(PutJob(entry.job)); }

bool JobDesk::Active(const Entry& entry) { return !Ended(entry.job.state()); }

absl::Status JobDesk::Recover() {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs, LoadJobs(*parts_.store));
  for (const v1::Job& job : jobs) {
    Entry& entry = jobs_[job.id()];
    entry.job = job;
    entry.order = ++last_order_;
    if (!Active(entry)) continue;
    entry.job.set_state(v1::JOB_CANCELLED);
    SetFailure(MakeError(Reason::kCancelled, "the coordinator stopped before the job ended", {},
                         kResumeHint),
               entry.job.mutable_failure());
    spdlog::info("job {} was not finished by an earlier run; submitting it again resumes it",
                 job.id());
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Job> JobDesk::Submit(const v1::SubmitJobRequest& request) {
  OCTAVO_RETURN_IF_ERROR(CheckRequest(request.quantize()));
  const std::string id = JobIdOf(request);
  v1::QuantizeRequest quantize = Normalized(request.quantize());
  auto found = jobs_.find(id);
  if (found != jobs_.end()) {
    const v1::QuantizeRequest& known = found->second.job.request();
    if (known.source_dir() != quantize.source_dir() ||
        known.output_dir() != quantize.output_dir() ||
        known.recipe().SerializeAsString() != quantize.recipe().SerializeAsString() ||
        known.has_measure() != quantize.has_measure() ||
        known.measure().SerializeAsString() != quantize.measure().SerializeAsString() ||
        known.calibration().digest().SerializeAsString() !=
            quantize.calibration().digest().SerializeAsString()) {
      return MakeError(Reason::kBadRequest, "the idempotency key belongs to another request", {},
                       "Draw a new key");
    }
    if (Active(found->second)) return Snapshot(found->second);
  }
  for (const auto& [other_id, other] : jobs_) {
    if (other.job.request().output_dir() != quantize.output_dir()) continue;
    if (!other.slow_step && !Active(other)) continue;
    return MakeError(Reason::kBusy, fmt::format("job {} is working on this output", other_id),
                     {.file = quantize.output_dir()}, "Wait for it, or cancel it first");
  }
  DropOldJobs();
  Entry& entry = jobs_[id];
  entry.order = ++last_order_;
  entry.generation = ++last_generation_;
  entry.cancel_wanted = false;
  entry.submitted = parts_.clock->Now();
  entry.running_since = entry.publishing_since = entry.ended = Clock::Nanos(0);
  entry.job.set_id(id);
  entry.ids.reset();
  if (quantize.has_calibration()) {  // the journal gets the digest, a file the ids
    entry.ids =
        std::make_shared<std::string>(std::move(*quantize.mutable_calibration()->mutable_ids()));
    quantize.mutable_calibration()->clear_ids();
  }
  *entry.job.mutable_request() = std::move(quantize);
  entry.job.set_state(v1::JOB_PLANNING);
  entry.job.clear_failure();
  entry.job.clear_progress();
  entry.job.clear_already_done();
  entry.job.set_staging_dir(StagingDirOf(entry.job.request().output_dir(), id));
  entry.job.set_report_path(ReportPathOf(entry.job.request().output_dir()));
  Journal(entry);
  StartPlanning(entry);
  return Snapshot(entry);
}

void JobDesk::StartPlanning(Entry& entry) {
  const std::string id = entry.job.id();
  const uint64_t generation = entry.generation;
  entry.slow_step = true;
  const bool posted = parts_.slow->Post([this, id, generation, job = entry.job, ids = entry.ids] {
    auto result = std::make_shared<absl::StatusOr<PreparedJob>>(
        PrepareJob(job, ids == nullptr ? std::string_view() : *ids, *parts_.store));
    const bool useless = result->ok() ? (*result)->job.already_done()
                                      : ReasonOf(result->status()) == Reason::kSourceChanged;
    if (useless) DropStaging(job);
    parts_.post([this, id, generation, result] { OnPlanned(id, generation, result); });
  });
  if (posted) return;
  entry.slow_step = false;
  Fail(entry,
       MakeError(Reason::kQueueFull, "too many jobs are being planned, or the coordinator stops",
                 {}, kResumeHint));
}

void JobDesk::OnPlanned(const std::string& id, uint64_t generation,
                        const std::shared_ptr<absl::StatusOr<PreparedJob>>& result) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || found->second.generation != generation) return;
  Entry& entry = found->second;
  entry.slow_step = false;
  entry.ids.reset();
  if (!result->ok()) {
    if (ReasonOf(result->status()) == Reason::kSourceChanged) ForgetUnits(entry);
    Fail(entry, result->status());
    return;
  }
  PreparedJob prepared = *std::move(*result);
  *entry.job.mutable_sources() = prepared.job.sources();
  *entry.job.mutable_warnings() = prepared.job.warnings();
  if (prepared.job.already_done()) {
    entry.job.set_already_done(true);
    v1::JobProgress& progress = *entry.job.mutable_progress();
    progress.set_units_total(prepared.plan.units_size());
    progress.set_units_done(prepared.plan.units_size());
    progress.set_units_reused(prepared.plan.units_size());
    progress.set_source_bytes_total(prepared.plan.source_bytes());
    progress.set_source_bytes_done(prepared.plan.source_bytes());
    ForgetUnits(entry);
    End(entry, v1::JOB_DONE);
    // A crash between publishing and reporting leaves an output without a report, and without
    // times.
    if (prepared.unreported) WriteReport(Snapshot(entry), JobTimes()).IgnoreError();
    return;
  }
  auto& writes = parts_.outbox->writes;
  writes.push_back(PutPlanDigest(id, prepared.plan_digest));
  for (const uint32_t unit : prepared.dropped) writes.push_back(EraseReceipt(id, unit));
  entry.run =
      std::make_shared<JobRun>(entry.job, std::move(prepared.plan), std::move(prepared.kept));
  if (entry.cancel_wanted) {
    End(entry, v1::JOB_CANCELLED);
    return;
  }
  entry.job.set_state(v1::JOB_RUNNING);
  entry.running_since = parts_.clock->Now();
  Journal(entry);
  spdlog::info("job {}: {} units, {} done by an earlier run", id, entry.run->table().size(),
               entry.run->table().done_count());
  if (entry.run->all_done()) StartPublishing(entry);
}

std::optional<v1::Task> JobDesk::NextTask(const std::string& worker, uint64_t epoch) {
  Entry* oldest = nullptr;
  for (auto& [id, entry] : jobs_) {
    if (entry.job.state() != v1::JOB_RUNNING || !entry.run->table().Next(worker)) continue;
    if (oldest == nullptr || entry.order < oldest->order) oldest = &entry;
  }
  if (oldest == nullptr) return std::nullopt;
  std::optional<v1::Task> task = oldest->run->Lease(worker, epoch);
  parts_.outbox->writes.push_back(PutLease(oldest->job.id(), task->unit().id(), epoch, worker));
  parts_.outbox->leased = true;
  return task;
}

JobDesk::Entry* JobDesk::Running(const std::string& id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || found->second.job.state() != v1::JOB_RUNNING) return nullptr;
  return &found->second;
}

std::optional<std::string> JobDesk::OnReceipt(const std::string& worker,
                                              const v1::Receipt& receipt) {
  Entry* entry = Running(receipt.job_id());
  if (entry == nullptr) {
    parts_.metrics->Add(metric::kReceipts, 1, {"stale"});
    return std::nullopt;
  }
  const std::string& id = entry->job.id();
  switch (entry->run->OnReceipt(worker, receipt, parts_.clock->Now())) {
    case JobRun::Answer::kDone:
      parts_.metrics->Add(metric::kReceipts, 1, {"done"});
      parts_.metrics->Add(metric::kJobBytes, static_cast<double>(receipt.bytes_read()), {"read"});
      parts_.metrics->Add(metric::kJobBytes, static_cast<double>(receipt.bytes_written()),
                          {"written"});
      parts_.outbox->writes.push_back(PutReceipt(receipt));
      parts_.outbox->writes.push_back(EraseLease(id, receipt.unit_id()));
      if (entry->run->all_done()) StartPublishing(*entry);
      return std::nullopt;
    case JobRun::Answer::kDuplicate:
      parts_.metrics->Add(metric::kReceipts, 1, {"duplicate"});
      return std::nullopt;
    case JobRun::Answer::kStale:
    case JobRun::Answer::kUnknown:
      parts_.metrics->Add(metric::kReceipts, 1, {"stale"});
      return std::nullopt;
    case JobRun::Answer::kDisagrees:
      break;
  }
  parts_.metrics->Add(metric::kReceipts, 1, {"disagrees"});
  parts_.metrics->Add(metric::kDigestDisagreements);
  parts_.metrics->Add(metric::kRetries, 1, {"disagreement"});
  for (const uint32_t unit : entry->run->reopened()) {
    parts_.outbox->writes.push_back(EraseReceipt(id, unit));
  }
  const std::string why = fmt::format(
      "two executions of unit {} of job {} gave different digests, the second on worker {}",
      receipt.unit_id(), id, worker);
  if (entry->run->disagreements() >= kDisagreementsMax) {
    Fail(*entry, MakeError(Reason::kCorrupted, why, {}, "Check the memory of the machines"));
  }
  return why;
}

void JobDesk::OnTaskFailed(const std::string& worker, const v1::TaskFailed& failed) {
  Entry* entry = Running(failed.job_id());
  if (entry == nullptr || !entry->run->OnFailed(failed.unit_id(), failed.epoch())) return;
  const absl::Status status = StatusOfFailure(failed.failure());
  parts_.metrics->Add(metric::kRetries, 1, {std::string(InfoOf(ReasonOf(status)).name)});
  parts_.outbox->writes.push_back(EraseLease(entry->job.id(), failed.unit_id()));
  // A full disk is no better a moment later, and its cure is the user's.
  const bool again = failed.retryable() && ReasonOf(status) != Reason::kDiskFull &&
                     entry->run->failures(failed.unit_id()) < kUnitFailuresMax;
  spdlog::warn("job {}: unit {} failed on worker {}{}: {}", entry->job.id(), failed.unit_id(),
               worker, again ? ", will be tried again" : "", failed.failure().message());
  if (again) return;
  if (ReasonOf(status) == Reason::kSourceChanged) ForgetUnits(*entry);
  Fail(*entry, status);
}

void JobDesk::OnWorkerLost(const std::string& worker) {
  for (auto& [id, entry] : jobs_) {
    if (entry.job.state() != v1::JOB_RUNNING) continue;
    const std::vector<uint32_t> units = entry.run->OnWorkerLost(worker);
    if (units.empty()) continue;
    const auto count = static_cast<double>(units.size());
    parts_.metrics->Add(metric::kLeasesExpired, count);
    parts_.metrics->Add(metric::kRetries, count, {"worker-lost"});
    spdlog::warn("job {}: worker {} is gone, its {} leased units wait again", id, worker,
                 units.size());
    for (const uint32_t unit : units) {
      parts_.outbox->writes.push_back(EraseLease(id, unit));
      if (entry.run->table().attempts(unit) < kUnitAttemptsMax) continue;
      Fail(entry, MakeError(Reason::kInternal,
                            fmt::format("unit {} was leased {} times and its workers died", unit,
                                        kUnitAttemptsMax)));
      break;
    }
  }
}

}  // namespace octavo
