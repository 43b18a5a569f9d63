#pragma once

// The serving groups: which workers are the ranks of which model. Every method runs under Control's
// lock.
//
//   loading -> ready -> reforming -> ready ...; failed; gone by Unload
//   after a start: recovering -> ready, or reforming
//
// A group takes the ready workers with the lowest ids that are in no other group. When one of its
// ranks is lost or fails, every rank is told to abort, and the group forms again under a new epoch
// as soon as enough workers are there. A group that cannot form fails with the reason after a few
// tries, at once where trying again is no use. What is loaded is in the journal (group_journal.h),
// so that a coordinator that starts anew takes the group over as it is, if all of its ranks still
// serve, or loads the model again. A rank that serves under an epoch that is not known is told to
// abort.

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
  // kBusy (the id serves something else), kQueueFull.
  absl::StatusOr<v1::ModelInfo> Load(const v1::LoadModelRequest& request);
  absl::StatusOr<v1::ModelInfo> Get(const std::string& model_id) const;  // kNotFound
  std::vector<v1::ModelInfo> List() const;
  absl::Status Unload(const std::string& model_id);  // kNotFound

  void OnRankReport(const std::string& worker, const v1::RankReport& report);
  void OnPut(const v1::RendezvousPut& put);
  void OnGet(const std::string& worker, const v1::RendezvousGet& get);
  void OnWorkerLost(const std::string& worker);
  void Tick();
  // Tells the router where the workers are that are attached.
  void ShareWorkers();
  void UpdateGauges();

  // Sets model_id and rank if the worker is a rank.
  void Describe(v1::WorkerInfo& worker) const;

 private:
  using Nanos = Clock::Nanos;
  struct Group {
    v1::LoadModelRequest request;
    v1::ModelInfo info;
    uint64_t generation = 0;  // of this Load; plans made for an earlier one are void
    bool planning = false;
    bool formed = false;               // ranks hold this epoch; false: about to form
    std::vector<std::string> workers;  // by rank, while formed or planning
    std::vector<bool> ready;           // by rank
    Rendezvous notes;
    Nanos asked{0};
    Nanos next_try{0};
    Nanos formed_at{0};
    Nanos ready_at{0};
    bool served = false;  // was ready once
    int failures = 0;     // formations or groups that failed in a row
  };

  static constexpr char kLoading[] = "loading";
  static constexpr char kReady[] = "ready";
  static constexpr char kReforming[] = "reforming";
  static constexpr char kRecovering[] = "recovering";
  static constexpr char kFailed[] = "failed";

  // A new group, in no state yet; it replaces one of the same name.
  Group& Begin(const v1::LoadModelRequest& request);
  void TryForm(Group& group);
  void OnPlanned(const std::string& model_id, uint64_t generation,
                 const std::shared_ptr<absl::StatusOr<GroupPlan>>& result);
  void Form(Group& group, const GroupPlan& plan);
  void Break(Group& group, const absl::Status& why, const char* cause, bool worker_lost);
  void Fail(Group& group, const absl::Status& why);
  void GiveUpRecovering(Group& group);
  // Ends a rank that serves in a group that is none of ours.
  void Fence(const std::string& worker, const v1::RankReport& report);
  void SetState(Group& group, const std::string& state);
  void Answer(const std::vector<Rendezvous::Answer>& answers);
  void Tell(const std::string& worker, v1::Directive directive);
  Group* OfEpoch(uint64_t epoch);
  bool InGroup(const std::string& worker) const;

  const Parts parts_;
  std::map<std::string, Group> groups_;
  uint64_t last_generation_ = 0;
};

}  // namespace octavo
