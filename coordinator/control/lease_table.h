#pragma once

// Which unit of a job is whose. Pure: no clock, no thread, no store; a random-history test drives
// it.
//
// A unit is waiting, leased (to one worker, under one epoch) or done. Units of phase p are leased
// when all units of the phases before are done, lowest id first. Every lease has an epoch that no
// other lease of the job ever had; a report under any other epoch is stale.

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace octavo {

class LeaseTable {
 public:
  enum class Outcome {
    kDone,       // accepted
    kDuplicate,  // the unit was done already: compare the receipts
    kStale,      // not the current lease; the unit is not done
    kUnknown,    // no such unit
  };

  // The phase of each unit, by unit id.
  explicit LeaseTable(std::span<const uint32_t> phases);

  // A unit finished by an earlier run. REQUIRES: waiting.
  void MarkDone(uint32_t unit);
  // Takes a done unit back to waiting (its receipt was contradicted). Its phase is current again.
  void Reopen(uint32_t unit);

  // The unit that a lease would take now.
  std::optional<uint32_t> Next() const;
  // Leases Next(). REQUIRES Next() has a value.
  uint32_t Lease(const std::string& worker, uint64_t epoch);

  Outcome Finish(uint32_t unit, uint64_t epoch);
  // The lease ends and the unit waits again; false if the lease is not current.
  bool GiveBack(uint32_t unit, uint64_t epoch);
  // All leases of a worker end. Returns their units, ascending.
  std::vector<uint32_t> Release(const std::string& worker);
  // All leases end.
  void ReleaseAll();

  // Times that the unit was leased.
  uint32_t attempts(uint32_t unit) const { return units_[unit].attempts; }
  bool done(uint32_t unit) const { return units_[unit].state == State::kDone; }
  uint32_t size() const { return static_cast<uint32_t>(units_.size()); }
  uint32_t done_count() const { return done_count_; }
  uint32_t leased_count() const { return leased_count_; }
  uint32_t leased_count(const std::string& worker) const;
  bool all_done() const { return done_count_ == size(); }
  // The first phase that is not done; the number of phases when all are.
  uint32_t phase() const { return phase_; }

 private:
  enum class State { kWaiting, kLeased, kDone };
  struct Unit {
    uint32_t phase = 0;
    State state = State::kWaiting;
    uint64_t epoch = 0;
    uint32_t attempts = 0;
    std::string worker;
  };
  struct Phase {
    std::set<uint32_t> waiting;
    uint32_t open = 0;  // not done
  };

  void ToWaiting(uint32_t unit);
  void ToDone(uint32_t unit);

  std::vector<Unit> units_;
  std::vector<Phase> phases_;
  std::map<std::string, std::set<uint32_t>> by_worker_;
  uint32_t done_count_ = 0;
  uint32_t leased_count_ = 0;
  uint32_t phase_ = 0;
};

}  // namespace octavo
