#pragma once

// Which unit of a job is whose. Pure: no clock, no thread, no store; a random-history test drives
// it.
//
// A unit is blocked (the unit that it comes after is not done), waiting, leased (to one worker,
// under one epoch) or done. Units of phase p are leased when all units of the phases before are
// done. Every lease has an epoch that no other lease of the job ever had; a report under any other
// epoch is stale.
//
// Units of one run (a layer's micro-batches) share what a worker holds in memory. A worker stays
// with its run while units of it wait, then takes the first run that no other worker is at, then
// units of no run, and only then helps with another's run. Within these, lowest id first.

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

  static constexpr int32_t kNoRun = -1;
  struct Entry {
    uint32_t phase = 0;
    std::optional<uint32_t> after = {};  // of the same phase, with a lower id; comes after one unit
    int32_t run = kNoRun;
  };

  // Units by id. REQUIRES: no two units come after the same one.
  explicit LeaseTable(std::span<const Entry> entries);

  // A unit finished by an earlier run. REQUIRES: neither leased nor done.
  void MarkDone(uint32_t unit);
  // Takes a done unit back to waiting (its receipt was contradicted), and with it all that come
  // after it, whose leases end. Its phase is current again. Returns the units that were done.
  std::vector<uint32_t> Reopen(uint32_t unit);

  // The unit that a lease to `worker` would take now.
  std::optional<uint32_t> Next(const std::string& worker) const;
  // Leases Next(worker). REQUIRES that it has a value.
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
  enum class State { kBlocked, kWaiting, kLeased, kDone };
  struct Unit {
    Entry entry;
    std::optional<uint32_t> then = {};  // the unit that comes after this one
    State state = State::kWaiting;
    uint64_t epoch = 0;
    uint32_t attempts = 0;
    std::string worker;
  };
  struct Phase {
    std::map<int32_t, std::set<uint32_t>> waiting;  // by run; no empty sets
    uint32_t open = 0;                              // not done
  };

  void SetWaiting(uint32_t unit);
  void UnsetWaiting(uint32_t unit);
  void EndLease(uint32_t unit);
  void ToWaiting(uint32_t unit);
  void ToDone(uint32_t unit);

  std::vector<Unit> units_;
  std::vector<Phase> phases_;
  std::map<std::string, std::set<uint32_t>> by_worker_;
  std::map<std::string, int32_t> run_of_;  // the run that a worker was last given a unit of
  uint32_t done_count_ = 0;
  uint32_t leased_count_ = 0;
  uint32_t phase_ = 0;
};

}  // namespace octavo
