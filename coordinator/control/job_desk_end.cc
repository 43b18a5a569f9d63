// How jobs end: publishing, failing, cancelling; and how they are shown.

#include <algorithm>
#include <utility>

#include "coordinator/control/job_desk.h"
#include "coordinator/control/job_journal.h"
#include "core/base/error.h"
#include "core/base/failure.h"
#include "core/base/log.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr v1::JobState kAllStates[] = {v1::JOB_PLANNING, v1::JOB_RUNNING, v1::JOB_PUBLISHING,
                                       v1::JOB_DONE,     v1::JOB_FAILED,  v1::JOB_CANCELLED};

// "running" for JOB_RUNNING.
std::string NameOf(v1::JobState state) {
  std::string name = v1::JobState_Name(state).substr(4);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return static_cast<char>(c - 'A' + 'a'); });
  return name;
}

}  // namespace

void JobDesk::StartPublishing(Entry& entry) {
  const std::string id = entry.job.id();
  const uint64_t generation = entry.generation;
  entry.job.set_state(v1::JOB_PUBLISHING);
  entry.publishing_since = parts_.clock->Now();
  Journal(entry);
  entry.slow_step = true;
  const bool posted = parts_.slow->Post([this, id, generation, job = entry.job, run = entry.run] {
    const absl::Status status = PublishJob(job, run->plan(), run->receipts());
    if (!status.ok() && ReasonOf(status) == Reason::kSourceChanged) DropStaging(job);
    parts_.post([this, id, generation, status] { OnPublished(id, generation, status); });
  });
  if (posted) return;
  entry.slow_step = false;
  Fail(entry, MakeError(Reason::kQueueFull,
                        "too many jobs are being published, or the coordinator stops"));
}

void JobDesk::OnPublished(const std::string& id, uint64_t generation, const absl::Status& status) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end() || found->second.generation != generation) return;
  Entry& entry = found->second;
  entry.slow_step = false;
  if (!status.ok()) {
    if (ReasonOf(status) == Reason::kSourceChanged) ForgetUnits(entry);
    Fail(entry, status);
    return;
  }
  const Clock::Nanos now = parts_.clock->Now();
  const JobTimes times{.total_seconds = Seconds(now - entry.submitted),
                       .planning_seconds = Seconds(entry.running_since - entry.submitted),
                       .running_seconds = Seconds(entry.publishing_since - entry.running_since),
                       .publishing_seconds = Seconds(now - entry.publishing_since)};
  parts_.metrics->Observe(metric::kPublishSeconds, times.publishing_seconds);
  const absl::Status reported = WriteReport(Snapshot(entry), times);
  if (!reported.ok()) {
    entry.job.add_warnings()->set_text(
        fmt::format("the report could not be written: {}", std::string(reported.message())));
  }
  ForgetUnits(entry);
  End(entry, v1::JOB_DONE);
}

// Nothing of this run will be resumed: the journal forgets its units.
void JobDesk::ForgetUnits(Entry& entry) {
  const auto writes = EraseWork(*parts_.store, entry.job.id());
  if (!writes.ok()) return;  // they lie there until the job runs again
  auto& all = parts_.outbox->writes;
  // Those of this very round come first, so that the erasing wins.
  all.insert(all.end(), writes->begin(), writes->end());
  if (entry.run == nullptr) return;
  for (uint32_t unit = 0; unit < entry.run->table().size(); ++unit) {
    all.push_back(EraseReceipt(entry.job.id(), unit));
    all.push_back(EraseLease(entry.job.id(), unit));
  }
}

absl::StatusOr<v1::Job> JobDesk::Cancel(const std::string& id) {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) {
    return MakeError(Reason::kNotFound, fmt::format("there is no job {}", id));
  }
  Entry& entry = found->second;
  // What is being published will be there in a moment; taking it back would leave half a job.
  if (entry.job.state() == v1::JOB_RUNNING) {
    End(entry, v1::JOB_CANCELLED);
  } else if (entry.job.state() == v1::JOB_PLANNING) {
    entry.cancel_wanted = true;
  }
  return Snapshot(entry);
}

void JobDesk::FailAll(const absl::Status& status) {
  for (auto& [id, entry] : jobs_) {
    if (Active(entry)) Fail(entry, status);
  }
}

void JobDesk::Fail(Entry& entry, const absl::Status& status) {
  spdlog::warn("job {} failed: {}", entry.job.id(), std::string(status.message()));
  SetFailure(status, entry.job.mutable_failure());
  End(entry, v1::JOB_FAILED);
}

void JobDesk::End(Entry& entry, v1::JobState state) {
  if (entry.run != nullptr) {
    Revoke(entry, entry.run->ReleaseAll());
    *entry.job.mutable_progress() = entry.run->Progress();
    entry.run.reset();
  }
  entry.job.set_state(state);
  entry.ended = parts_.clock->Now();
  Journal(entry);
  parts_.metrics->Add(metric::kJobsFinished, 1, {NameOf(state)});
}

void JobDesk::Revoke(const Entry& entry, const std::vector<std::string>& workers) {
  for (const std::string& worker : workers) {
    v1::Directive directive;
    directive.mutable_revoke()->set_job_id(entry.job.id());
    parts_.outbox->directives.emplace_back(worker, std::move(directive));
  }
}

void JobDesk::DropOldJobs() {
  while (jobs_.size() >= kJobsMax) {
    auto oldest = jobs_.end();
    for (auto i = jobs_.begin(); i != jobs_.end(); ++i) {
      if (Active(i->second) || i->second.slow_step) continue;
      if (oldest == jobs_.end() || i->second.order < oldest->second.order) oldest = i;
    }
    if (oldest == jobs_.end()) return;
    const auto writes = EraseWork(*parts_.store, oldest->first);
    if (writes.ok()) {
      auto& all = parts_.outbox->writes;
      all.insert(all.end(), writes->begin(), writes->end());
    }
    parts_.outbox->writes.push_back({"job/" + oldest->first, std::nullopt});
    jobs_.erase(oldest);
  }
}

v1::Job JobDesk::Snapshot(const Entry& entry) const {
  v1::Job job = entry.job;
  if (entry.run != nullptr) *job.mutable_progress() = entry.run->Progress();
  for (v1::WorkerProgress& worker : *job.mutable_progress()->mutable_workers()) {
    const Membership::Member* member = parts_.members->Find(worker.worker_id());
    const bool ready = member != nullptr && member->state == WorkerState::kReady;
    worker.set_state(!ready ? "lost" : worker.units_leased() > 0 ? "busy" : "idle");
    if (member != nullptr) worker.set_rss_peak_bytes(member->rss_peak_bytes);
  }
  if (entry.submitted.count() != 0) {
    const Clock::Nanos until = Active(entry) ? parts_.clock->Now() : entry.ended;
    job.mutable_progress()->set_elapsed_seconds(Seconds(until - entry.submitted));
  }
  return job;
}

absl::StatusOr<v1::Job> JobDesk::Get(const std::string& id) const {
  const auto found = jobs_.find(id);
  if (found == jobs_.end()) {
    return MakeError(Reason::kNotFound, fmt::format("there is no job {}", id));
  }
  return Snapshot(found->second);
}

std::vector<v1::Job> JobDesk::List() const {
  std::vector<const Entry*> entries;
  for (const auto& [id, entry] : jobs_) entries.push_back(&entry);
  std::sort(entries.begin(), entries.end(),
            [](const Entry* a, const Entry* b) { return a->order < b->order; });
  std::vector<v1::Job> jobs;
  for (const Entry* entry : entries) jobs.push_back(Snapshot(*entry));
  return jobs;
}

uint32_t JobDesk::LeasedCount(const std::string& worker) const {
  uint32_t count = 0;
  for (const auto& [id, entry] : jobs_) {
    if (entry.run != nullptr) count += entry.run->table().leased_count(worker);
  }
  return count;
}

void JobDesk::UpdateGauges() {
  std::map<v1::JobState, int> counts;
  double rate = 0;
  uint64_t total = 0;
  uint64_t done = 0;
  uint64_t leased = 0;
  for (const auto& [id, entry] : jobs_) {
    ++counts[entry.job.state()];
    if (entry.run == nullptr) continue;
    rate += entry.run->Rate(parts_.clock->Now());
    total += entry.run->table().size();
    done += entry.run->table().done_count();
    leased += entry.run->table().leased_count();
  }
  for (const v1::JobState state : kAllStates) {
    parts_.metrics->Set(metric::kJobs, counts[state], {NameOf(state)});
  }
  parts_.metrics->Set(metric::kUnits, static_cast<double>(done), {"done"});
  parts_.metrics->Set(metric::kUnits, static_cast<double>(leased), {"leased"});
  parts_.metrics->Set(metric::kUnits, static_cast<double>(total - done - leased), {"waiting"});
  parts_.metrics->Set(metric::kJobRate, rate);
  parts_.metrics->Set(metric::kJobProgress,
                      total == 0 ? 0 : static_cast<double>(done) / static_cast<double>(total));
}

}  // namespace octavo
