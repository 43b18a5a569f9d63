#include "coordinator/control/lease_table.h"

#include <algorithm>

#include "core/base/status.h"

namespace octavo {

LeaseTable::LeaseTable(std::span<const Entry> entries) : units_(entries.size()) {
  for (uint32_t unit = 0; unit < entries.size(); ++unit) {
    units_[unit].entry = entries[unit];
    const uint32_t phase = entries[unit].phase;
    if (phase >= phases_.size()) phases_.resize(phase + 1);
    ++phases_[phase].open;
    if (const std::optional<uint32_t> after = entries[unit].after) {
      OCTAVO_CHECK(*after < unit && entries[*after].phase == phase && !units_[*after].then);
      units_[*after].then = unit;
      units_[unit].state = State::kBlocked;
    } else {
      SetWaiting(unit);
    }
  }
  while (phase_ < phases_.size() && phases_[phase_].open == 0) ++phase_;
}

void LeaseTable::MarkDone(uint32_t unit) {
  OCTAVO_CHECK(unit < size() && units_[unit].state != State::kDone &&
               units_[unit].state != State::kLeased);
  ToDone(unit);
}

std::vector<uint32_t> LeaseTable::Reopen(uint32_t unit) {
  OCTAVO_CHECK(unit < size() && units_[unit].state == State::kDone);
  std::vector<uint32_t> reopened;
  for (std::optional<uint32_t> at = unit; at; at = units_[*at].then) {
    if (units_[*at].state == State::kLeased) EndLease(*at);
    if (units_[*at].state == State::kWaiting) UnsetWaiting(*at);
    if (units_[*at].state == State::kDone) {
      --done_count_;
      ++phases_[units_[*at].entry.phase].open;
      reopened.push_back(*at);
    }
    units_[*at].state = State::kBlocked;
  }
  SetWaiting(unit);
  phase_ = std::min(phase_, units_[unit].entry.phase);
  return reopened;
}

std::optional<uint32_t> LeaseTable::Next(const std::string& worker) const {
  if (phase_ >= phases_.size() || phases_[phase_].waiting.empty()) return std::nullopt;
  const auto& waiting = phases_[phase_].waiting;
  const auto first = [](const auto& run) { return *run.second.begin(); };
  std::set<int32_t> taken;  // runs that other workers are at
  for (const auto& [other, run] : run_of_) {
    if (other != worker) {
      taken.insert(run);
    } else if (const auto own = waiting.find(run); own != waiting.end()) {
      return first(*own);
    }
  }
  const auto runs = waiting.upper_bound(kNoRun);
  const auto free = std::find_if(runs, waiting.end(),
                                 [&](const auto& run) { return !taken.contains(run.first); });
  if (free != waiting.end()) return first(*free);
  return first(*waiting.begin());  // kNoRun is the least
}

uint32_t LeaseTable::Lease(const std::string& worker, uint64_t epoch) {
  const std::optional<uint32_t> unit = Next(worker);
  OCTAVO_CHECK(unit.has_value());
  UnsetWaiting(*unit);
  Unit& leased = units_[*unit];
  leased.state = State::kLeased;
  leased.epoch = epoch;
  leased.worker = worker;
  ++leased.attempts;
  ++leased_count_;
  by_worker_[worker].insert(*unit);
  if (leased.entry.run != kNoRun) run_of_[worker] = leased.entry.run;
  return *unit;
}

LeaseTable::Outcome LeaseTable::Finish(uint32_t unit, uint64_t epoch) {
  if (unit >= size()) return Outcome::kUnknown;
  if (units_[unit].state == State::kDone) return Outcome::kDuplicate;
  if (units_[unit].state != State::kLeased || units_[unit].epoch != epoch) return Outcome::kStale;
  ToDone(unit);
  return Outcome::kDone;
}

bool LeaseTable::GiveBack(uint32_t unit, uint64_t epoch) {
  if (unit >= size() || units_[unit].state != State::kLeased || units_[unit].epoch != epoch) {
    return false;
  }
  ToWaiting(unit);
  return true;
}

std::vector<uint32_t> LeaseTable::Release(const std::string& worker) {
  run_of_.erase(worker);
  const auto found = by_worker_.find(worker);
  if (found == by_worker_.end()) return {};
  const std::vector<uint32_t> units(found->second.begin(), found->second.end());
  for (const uint32_t unit : units) ToWaiting(unit);
  return units;
}

void LeaseTable::ReleaseAll() {
  while (!by_worker_.empty()) Release(std::string(by_worker_.begin()->first));
}

uint32_t LeaseTable::leased_count(const std::string& worker) const {
  const auto found = by_worker_.find(worker);
  return found == by_worker_.end() ? 0 : static_cast<uint32_t>(found->second.size());
}

void LeaseTable::SetWaiting(uint32_t unit) {
  const Entry& entry = units_[unit].entry;
  units_[unit].state = State::kWaiting;
  phases_[entry.phase].waiting[entry.run].insert(unit);
}

void LeaseTable::UnsetWaiting(uint32_t unit) {
  const Entry& entry = units_[unit].entry;
  const auto run = phases_[entry.phase].waiting.find(entry.run);
  run->second.erase(unit);
  if (run->second.empty()) phases_[entry.phase].waiting.erase(run);
}

void LeaseTable::EndLease(uint32_t unit) {
  Unit& leased = units_[unit];
  const auto found = by_worker_.find(leased.worker);
  found->second.erase(unit);
  if (found->second.empty()) by_worker_.erase(found);
  --leased_count_;
  leased.worker.clear();
}

void LeaseTable::ToWaiting(uint32_t unit) {
  EndLease(unit);
  SetWaiting(unit);
}

void LeaseTable::ToDone(uint32_t unit) {
  Unit& one = units_[unit];
  if (one.state == State::kLeased) EndLease(unit);
  if (one.state == State::kWaiting) UnsetWaiting(unit);
  one.state = State::kDone;
  ++done_count_;
  --phases_[one.entry.phase].open;
  if (one.then && units_[*one.then].state == State::kBlocked) SetWaiting(*one.then);
  while (phase_ < phases_.size() && phases_[phase_].open == 0) ++phase_;
}

}  // namespace octavo
