#pragma once

// The serving groups: which workers are the ranks of which model. Every method runs under Control's
// lock.
//
//   loading -> ready -> reforming -> ready ...; failed; gone by Unload
//   after a start: recovering -> ready, or reforming
//   ready -> draining -> gone: another group took its place
//
// A group takes the ready workers with the fewest ranks, of those the lowest ids, and of their
// memory what the ranks there leave. When one of its ranks is lost or fails, every rank is told to
// abort, and the group forms again under a new epoch as soon as enough workers are there. A group
// that cannot form fails with the reason after a few tries, at once where trying again is no use.
//
// A model may have a successor, which loads beside it and takes its place in one step when it is
// ready: another checkpoint, or the same one on other workers when a worker is drained. What runs
// on the group that leaves finishes there, within kDrainMax.
//
// What is loaded is in the journal (group_journal.h), so that a coordinator that starts anew takes
// the group over as it is, if all of its ranks still serve, or loads the model again. A rank that
// serves under an epoch that is not known is told to abort.

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/control/group_plan.h"
#include "coordinator/control/outbox.h"
#include "coordinator/control/rendezvous.h"
#include "coordinator/control/slow_lane.h"
#include "coordinator/membership/membership.h"
#include "coordinator/router/model_table.h"
#include "core/base/clock.h"
#include "core/metrics/metrics.h"
#include "octavo/v1/cluster.pb.h"
#include "octavo/v1/inference.pb.h"

namespace octavo {

class GroupDesk {
 public:
  static constexpr size_t kModelsMax = 64;
  static constexpr int kTriesMax = 4;
  static constexpr std::chrono::seconds kWorkersWait{30};   // for enough workers to load a model
  static constexpr std::chrono::seconds kFormTimeout{600};  // from LoadRank to ready
  static constexpr std::chrono::seconds kSteady{60};      // of readiness forgives earlier failures
  static constexpr std::chrono::seconds kRecoverWait{5};  // for the ranks of a group that served
  static constexpr std::chrono::seconds kDrainMax{600};   // for what runs on a group that leaves
  static constexpr std::chrono::seconds kReliefRetry{5};  // after workers do not hold a group

  struct Parts {
    const Membership* members;
    ModelTable* models;
    Metrics* metrics;
    const Clock* clock;
    SlowLane* slow;
    Outbox* outbox;
    StateStore* store;
    std::function<void(std::function<void()>)> post;  // runs it later under Control's lock
    std::function<uint64_t()> next_epoch;
  };
  explicit GroupDesk(Parts parts) : parts_(std::move(parts)) {}

  // Takes up what the journal says is loaded. Once, before anything else. kCorrupted, kIo.
  absl::Status Recover();

  // Starts loading, or returns the model as it is if it was asked for in the same way. kBadRequest,
  // kBusy (the id serves something else and may not be replaced, or is being replaced),
  // kQueueFull.
  absl::StatusOr<v1::ModelInfo> Load(const v1::LoadModelRequest& request);
  absl::StatusOr<v1::ModelInfo> Get(uint64_t load) const;  // kNotFound
  // Models by id, then what is beside them.
  std::vector<v1::ModelInfo> List() const;
  // With whatever loads or drains beside it. kNotFound.
  absl::Status Unload(const std::string& model_id);
  // Takes back the Load that could not be kept.
  void Forget(uint64_t load);

  void OnRankReport(const std::string& worker, const v1::RankReport& report);
  void OnPut(const v1::RendezvousPut& put);
  void OnGet(const std::string& worker, const v1::RendezvousGet& get);
  void OnWorkerLost(const std::string& worker);
  void Tick();
  // Tells the router where the workers are that are attached.
  void ShareWorkers();
  void UpdateGauges();

  // Sets the worker's ranks.
  void Describe(v1::WorkerInfo& worker) const;

 private:
  using Nanos = Clock::Nanos;
  enum class Role { kPresent, kSuccessor, kLeaving };
  struct Group {
    Role role = Role::kPresent;
    v1::LoadModelRequest request;
    v1::ModelInfo info;     // info.load() is its key; plans made for one that is gone are void
    bool relieves = false;  // a successor that takes the place even if no workers hold it yet
    bool planning = false;
    bool formed = false;               // ranks hold this epoch; false: about to form
    std::vector<std::string> workers;  // by rank, while formed or planning
    std::vector<bool> ready;           // by rank
    Rendezvous notes;
    Nanos asked{0};
    Nanos next_try{0};
    Nanos formed_at{0};
    Nanos ready_at{0};
    Nanos leaving_at{0};
    bool served = false;  // was ready once
    int failures = 0;     // formations or groups that failed in a row

    bool AllReady() const {
      return std::all_of(ready.begin(), ready.end(), [](bool is) { return is; });
    }
  };

  static constexpr char kLoading[] = "loading";
  static constexpr char kReady[] = "ready";
  static constexpr char kReforming[] = "reforming";
  static constexpr char kRecovering[] = "recovering";
  static constexpr char kDraining[] = "draining";
  static constexpr char kFailed[] = "failed";

  // ---- group_desk.cc
  // A new group, in no state yet.
  Group& Begin(const v1::LoadModelRequest& request, Role role);
  void TickGroup(Group& group);
  Group* PresentOf(const std::string& model_id);
  Group* SuccessorOf(const std::string& model_id);
  Group* OfEpoch(uint64_t epoch);
  // Its ranks are told to unload.
  void Erase(Group& group);
  void SetState(Group& group, const std::string& state);
  void ShowInfo(const Group& group, bool there);  // kModelInfo
  void Publish(const Group& group);
  // Tells the router of what is beside the models.
  void ShareBeside();

  // ---- group_forming.cc
  // The workers for a group now, at most as many as it needs, and what each has left for a rank.
  struct Place {
    std::vector<std::string> workers;
    uint64_t memory = 0;  // of the one with the least
    uint64_t held = 0;    // there, by other ranks
  };
  Place PlaceFor(const Group& group) const;
  uint64_t HeldBytes(const std::string& worker) const;
  void TryForm(Group& group);
  void OnPlanned(uint64_t load, uint64_t held,
                 const std::shared_ptr<absl::StatusOr<GroupPlan>>& result);
  void Form(Group& group, const GroupPlan& plan);

  // ---- group_ranks.cc
  void OnReady(Group& group);
  // Every rank of the epoch aborts; the group forms again, fails or, where it was leaving, is gone.
  void Break(Group& group, const absl::Status& why, const char* cause, bool worker_lost);
  void Fail(Group& group, const absl::Status& why);

  // ---- group_handover.cc
  // The successor is the model from now on; the group it follows drains.
  void TakePlace(Group& successor, const std::string& state);
  void Leave(Group& group);
  void TellToDrain(const Group& group);
  // Gives models on workers that drain a successor on others; one that no others hold waits for
  // them, and is not there meanwhile.
  void MoveOffDraining();

  // ---- group_recovery.cc
  absl::Status RecoverBeside();
  void GiveUpRecovering(Group& group);
  // Ends a rank that serves in a group that is none of ours.
  void Fence(const std::string& worker, const v1::RankReport& report);
  void Answer(const std::vector<Rendezvous::Answer>& answers);
  void Tell(const std::string& worker, v1::Directive directive);

  const Parts parts_;
  std::map<uint64_t, Group> groups_;  // by load
  uint64_t last_load_ = 0;
};

}  // namespace octavo
