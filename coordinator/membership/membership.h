#pragma once

// Who is in the cluster: workers by id, their leases and fences. Pure but for the times it is
// given: no thread, no lock, no network.
//
// A worker that joins gets a session, a number that no other join ever had; whatever it says is
// valid for its current session only. A session ends when its stream ends, when no beat came for
// the lease time, when the worker joins again or when it is quarantined.

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "octavo/v1/cluster.pb.h"

namespace octavo {

enum class WorkerState { kReady, kLost, kQuarantined };
std::string_view NameOf(WorkerState state);  // "ready", "lost", "quarantined"

class Membership {
 public:
  using Nanos = std::chrono::nanoseconds;
  struct Member {
    v1::Hello hello;
    WorkerState state = WorkerState::kReady;
    uint64_t session = 0;  // of the last join
    Nanos last_beat{0};
    uint64_t rss_peak_bytes = 0;
    std::string quarantine_why;
  };

  explicit Membership(Nanos lease) : lease_(lease) {}

  // Lost workers beyond this many are forgotten, oldest first.
  static constexpr size_t kLostMax = 64;

  // Returns the session; 0 if the worker is in quarantine. An earlier session of the same worker is
  // void from now on.
  uint64_t Join(const v1::Hello& hello, Nanos now);
  // False if the session is not the worker's current one.
  bool Beat(uint64_t session, Nanos arrived, uint64_t rss_peak_bytes);
  // The stream ended: the id of the worker that is lost by it, empty if the session was void.
  std::string Leave(uint64_t session);
  // Workers whose last beat is older than the lease; they are lost from now on. To be asked several
  // times within a lease: of the time between two calls, what is beyond a third of the lease counts
  // as nobody's silence, because a coordinator that stood still read no beats.
  std::vector<std::string> Expire(Nanos now);
  // No task and no rank for it any more, whatever it says; it may not join again.
  void Quarantine(const std::string& worker_id, const std::string& why);

  // No new work for a worker that drains; what it does, it finishes. Holds for its id, attached or
  // not, until it is taken back.
  void SetDraining(const std::string& worker_id, bool draining);
  bool draining(const std::string& worker_id) const { return draining_.contains(worker_id); }

  // Null if unknown.
  const Member* Find(const std::string& worker_id) const;
  // The member whose current session this is and who is ready; null otherwise.
  const Member* OfSession(uint64_t session) const;
  // Ids of the ready workers, ascending.
  std::vector<std::string> Ready() const;
  // All known, by id.
  const std::map<std::string, Member>& members() const { return members_; }

 private:
  void MarkLost(Member& member);

  const Nanos lease_;
  std::optional<Nanos> last_look_;  // when Expire was called
  uint64_t last_session_ = 0;
  std::map<std::string, Member> members_;
  std::map<uint64_t, std::string> sessions_;  // current ones of ready workers
  std::set<std::string> draining_;
};

}  // namespace octavo
