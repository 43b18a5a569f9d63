#include "coordinator/control/job_run.h"

#include <utility>

#include "coordinator/planner/calibration_cost.h"
#include "coordinator/planner/calibration_plan.h"
#include "coordinator/planner/quantize_plan.h"

namespace octavo {
namespace {

constexpr std::chrono::seconds kRateWindow{5};

std::vector<LeaseTable::Entry> EntriesOf(const v1::Plan& plan) {
  std::vector<LeaseTable::Entry> entries;
  entries.reserve(plan.units_size());
  for (const v1::Unit& unit : plan.units()) {
    LeaseTable::Entry& entry = entries.emplace_back();
    entry.phase = unit.phase();
    entry.after = UnitBefore(plan, unit);
    // Micro-batches share a layer in memory: the source's, or the quantized one.
    const bool propagates = unit.kind() == v1::UNIT_PROPAGATE;
    if (unit.kind() != v1::UNIT_CALIBRATE && !propagates) continue;
    entry.run = 2 * static_cast<int32_t>(unit.layer()) + (propagates ? 1 : 0);
  }
  return entries;
}

}  // namespace

bool SameResult(const v1::Receipt& a, const v1::Receipt& b) {
  auto same = [](const auto& left, const auto& right) {
    if (left.size() != right.size()) return false;
    for (int i = 0; i < left.size(); ++i) {
      // Both come from the same code; fields without maps serialize in one way.
      if (left[i].SerializeAsString() != right[i].SerializeAsString()) return false;
    }
    return true;
  };
  // Figures go into the published report: they must agree as well.
  return same(a.ranges(), b.ranges()) && same(a.stats(), b.stats()) &&
         same(a.scratch(), b.scratch()) && same(a.reports(), b.reports()) &&
         same(a.scales(), b.scales()) && same(a.experts(), b.experts()) &&
         same(a.outputs(), b.outputs()) &&
         a.solved().SerializeAsString() == b.solved().SerializeAsString() &&
         a.smoothed().SerializeAsString() == b.smoothed().SerializeAsString();
}

JobRun::JobRun(const v1::Job& job, v1::Plan plan, std::vector<v1::Receipt> kept)
    : job_(job), plan_(std::move(plan)), table_(EntriesOf(plan_)), receipts_(plan_.units_size()) {
  uint64_t total = 0;
  for (const v1::Unit& unit : plan_.units()) {
    total += unit.source_bytes();
    sums_.set_work_total(sums_.work_total() + UnitWork(plan_, unit));
  }
  sums_.set_units_total(plan_.units_size());
  sums_.set_source_bytes_total(total);
  uint64_t done = 0;
  for (v1::Receipt& receipt : kept) {
    const uint32_t unit = receipt.unit_id();
    if (unit >= table_.size() || table_.done(unit)) continue;
    table_.MarkDone(unit);
    done += plan_.units(static_cast<int>(unit)).source_bytes();
    sums_.set_work_done(sums_.work_done() + UnitWork(plan_, plan_.units(static_cast<int>(unit))));
    receipts_[unit] = std::move(receipt);
  }
  sums_.set_units_reused(table_.done_count());
  sums_.set_source_bytes_done(done);
}

void JobRun::MergeFinishedPhases() {
  const uint32_t phase = table_.phase();
  if (phase == stats_phase_) return;
  stats_phase_ = phase;
  stats_.clear();
  if (phase == 0) return;
  std::vector<v1::Receipt> with_stats;
  for (uint32_t unit = 0; unit < table_.size(); ++unit) {
    if (!table_.done(unit) || receipts_[unit].stats().empty()) continue;
    v1::Receipt& part = with_stats.emplace_back();
    part.set_unit_id(unit);
    *part.mutable_stats() = receipts_[unit].stats();
  }
  stats_ = MergeStats(plan_, phase - 1, with_stats);
}

std::optional<v1::Task> JobRun::Lease(const std::string& worker, uint64_t epoch) {
  const std::optional<uint32_t> next = table_.Next(worker);
  if (!next) return std::nullopt;
  MergeFinishedPhases();
  table_.Lease(worker, epoch);
  tallies_.try_emplace(worker);
  return MakeTask(job_, plan_, *next, epoch, stats_);
}

JobRun::Answer JobRun::OnReceipt(const std::string& worker, const v1::Receipt& receipt, Nanos now) {
  const uint32_t unit = receipt.unit_id();
  switch (table_.Finish(unit, receipt.epoch())) {
    case LeaseTable::Outcome::kUnknown:
      return Answer::kUnknown;
    case LeaseTable::Outcome::kStale:
      return Answer::kStale;
    case LeaseTable::Outcome::kDuplicate:
      if (SameResult(receipts_[unit], receipt)) return Answer::kDuplicate;
      // Whose bytes lie in the folder now is not known: both results are void.
      ++disagreements_;
      Void(unit);
      return Answer::kDisagrees;
    case LeaseTable::Outcome::kDone:
      break;
  }
  receipts_[unit] = receipt;
  Tally& tally = tallies_[worker];
  ++tally.units_done;
  tally.bytes_read += receipt.bytes_read();
  sums_.set_bytes_read(sums_.bytes_read() + receipt.bytes_read());
  sums_.set_bytes_written(sums_.bytes_written() + receipt.bytes_written());
  sums_.set_read_seconds(sums_.read_seconds() + receipt.read_seconds());
  sums_.set_cast_seconds(sums_.cast_seconds() + receipt.cast_seconds());
  sums_.set_write_seconds(sums_.write_seconds() + receipt.write_seconds());
  sums_.set_source_bytes_done(sums_.source_bytes_done() +
                              plan_.units(static_cast<int>(unit)).source_bytes());
  const double work = UnitWork(plan_, plan_.units(static_cast<int>(unit)));
  sums_.set_work_done(sums_.work_done() + work);
  sums_.set_work_of_run(sums_.work_of_run() + work);
  samples_.emplace_back(now, sums_.source_bytes_done());
  while (now - samples_.front().first > kRateWindow) samples_.pop_front();
  return Answer::kDone;
}

void JobRun::Void(uint32_t unit) {
  stats_phase_ = 0;
  stats_.clear();
  reopened_ = table_.Reopen(unit);
  for (const uint32_t open : reopened_) {
    sums_.set_source_bytes_done(sums_.source_bytes_done() -
                                plan_.units(static_cast<int>(open)).source_bytes());
    sums_.set_work_done(sums_.work_done() - UnitWork(plan_, plan_.units(static_cast<int>(open))));
    receipts_[open].Clear();
  }
}

bool JobRun::OnFailed(uint32_t unit, uint64_t epoch) {
  if (!table_.GiveBack(unit, epoch)) return false;
  ++failures_[unit];
  sums_.set_retries(sums_.retries() + 1);
  return true;
}

uint32_t JobRun::failures(uint32_t unit) const {
  const auto found = failures_.find(unit);
  return found == failures_.end() ? 0 : found->second;
}

std::vector<uint32_t> JobRun::OnWorkerLost(const std::string& worker) {
  std::vector<uint32_t> units = table_.Release(worker);
  sums_.set_retries(sums_.retries() + units.size());
  return units;
}

std::vector<std::string> JobRun::ReleaseAll() {
  std::vector<std::string> holders;
  for (const auto& [worker, tally] : tallies_) {
    if (table_.leased_count(worker) > 0) holders.push_back(worker);
  }
  table_.ReleaseAll();
  return holders;
}

v1::JobProgress JobRun::Progress() const {
  v1::JobProgress progress = sums_;
  progress.set_units_done(table_.done_count());
  progress.set_units_leased(table_.leased_count());
  for (const auto& [worker, tally] : tallies_) {
    v1::WorkerProgress& entry = *progress.add_workers();
    entry.set_worker_id(worker);
    entry.set_units_done(tally.units_done);
    entry.set_units_leased(table_.leased_count(worker));
    entry.set_bytes_read(tally.bytes_read);
  }
  return progress;
}

double JobRun::Rate(Nanos now) const {
  if (samples_.size() < 2 || now - samples_.back().first > kRateWindow) return 0;
  const auto span = now - samples_.front().first;
  if (span.count() <= 0) return 0;
  return static_cast<double>(samples_.back().second - samples_.front().second) /
         (static_cast<double>(span.count()) * 1e-9);
}

}  // namespace octavo
