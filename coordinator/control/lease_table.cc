#include "coordinator/control/lease_table.h"

#include <algorithm>

#include "core/base/status.h"

namespace octavo {

LeaseTable::LeaseTable(std::span<const uint32_t> phases) : units_(phases.size()) {
  for (uint32_t unit = 0; unit < phases.size(); ++unit) {
    units_[unit].phase = phases[unit];
    if (phases[unit] >= phases_.size()) phases_.resize(phases[unit] + 1);
    phases_[phases[unit]].waiting.insert(unit);
    ++phases_[phases[unit]].open;
  }
  while (phase_ < phases_.size() && phases_[phase_].open == 0) ++phase_;
}

void LeaseTable::MarkDone(uint32_t unit) {
  OCTAVO_CHECK(unit < size() && units_[unit].state == State::kWaiting);
  ToDone(unit);
}

void LeaseTable::Reopen(uint32_t unit) {
  OCTAVO_CHECK(unit < size() && units_[unit].state == State::kDone);
  --done_count_;
  units_[unit].state = State::kWaiting;
  Phase& phase = phases_[units_[unit].phase];
  phase.waiting.insert(unit);
  ++phase.open;
  phase_ = std::min(phase_, units_[unit].phase);
}

std::optional<uint32_t> LeaseTable::Next() const {
  if (phase_ >= phases_.size() || phases_[phase_].waiting.empty()) return std::nullopt;
  return *phases_[phase_].waiting.begin();
}

uint32_t LeaseTable::Lease(const std::string& worker, uint64_t epoch) {
  const std::optional<uint32_t> unit = Next();
  OCTAVO_CHECK(unit.has_value());
  phases_[phase_].waiting.erase(*unit);
  Unit& leased = units_[*unit];
  leased.state = State::kLeased;
  leased.epoch = epoch;
  leased.worker = worker;
  ++leased.attempts;
  ++leased_count_;
  by_worker_[worker].insert(*unit);
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

void LeaseTable::ToWaiting(uint32_t unit) {
  Unit& leased = units_[unit];
  const auto found = by_worker_.find(leased.worker);
  found->second.erase(unit);
  if (found->second.empty()) by_worker_.erase(found);
  --leased_count_;
  leased.state = State::kWaiting;
  leased.worker.clear();
  phases_[leased.phase].waiting.insert(unit);
}

void LeaseTable::ToDone(uint32_t unit) {
  if (units_[unit].state == State::kLeased) ToWaiting(unit);
  Phase& phase = phases_[units_[unit].phase];
  phase.waiting.erase(unit);
  --phase.open;
  units_[unit].state = State::kDone;
  ++done_count_;
  while (phase_ < phases_.size() && phases_[phase_].open == 0) ++phase_;
}

}  // namespace octavo
