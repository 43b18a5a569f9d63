#pragma once

// Makes this worker a rank of serving groups and takes them apart again: joins the collective,
// loads the rank's weights, and becomes the group's leader (an Engine with streams to its
// followers) or a follower. Groups are told apart by their epochs; how many there are is the
// coordinator's to decide, which knows what each takes of --memory. Its directives are worked off
// in order by one thread, but for aborts, which act at once.

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/mutex.h"
#include "core/metrics/metrics.h"
#include "kernels/isa.h"
#include "octavo/v1/cluster.pb.h"
#include "worker/comm/metered_group.h"
#include "worker/runner/runner.h"
#include "worker/serve/engine.h"
#include "worker/serve/rendezvous_client.h"

namespace octavo {

// How a leader reaches its followers: what worker/service makes of their addresses (ranks 1, 2,
// ...). `abort` may come from any thread and ends the other two with kGroupLost.
struct FollowerLink {
  std::function<absl::Status(const v1::Step&)> send;
  std::function<absl::StatusOr<std::vector<v1::StepDone>>(uint64_t index)> collect;
  std::function<void()> abort;
};

// A rank's loaded model, as the host uses it (a ModelRunner, or a stand-in of a test).
struct RankModel {
  std::function<absl::Status(const v1::Step&, Logits*)> run;
  uint32_t kv_block_count = 0;
  WeightBytes weight_bytes = {};
  int threads = 1;  // of `spread`
  // Work between steps, as Engine::Hooks.spread.
  std::function<void(int64_t, const std::function<void(int64_t, int)>&)> spread = {};
};

class RankHost {
 public:
  static constexpr std::chrono::seconds kOrphanGrace{30};
  struct Options {
    std::string host;  // where peers reach this process (collectives)
    Collectives collectives = Collectives::kAuto;
    Isa isa = BestIsa();  // of sampling
    // Loads a rank's weights; the communicator outlives the result.
    std::function<absl::StatusOr<RankModel>(const v1::LoadRank&, Communicator*)> load;
    std::function<FollowerLink(const std::vector<std::string>& addresses)> link;
    // How long a group goes on without its coordinator.
    std::chrono::milliseconds grace{kOrphanGrace};
  };

  // `send` carries reports to the coordinator. `metrics` outlives the host.
  RankHost(Options options, std::function<void(v1::Report)> send, Metrics* metrics);
  ~RankHost();

  // Directives. They return at once.
  void Load(const v1::LoadRank& load);
  void AbortGroup(const v1::AbortGroup& abort);
  void Unload(const v1::UnloadRank& unload);
  // Of a group that this rank leads: no more requests are taken; RANK_DRAINED is reported when
  // those that run have been answered to the end.
  void Drain(const v1::DrainRank& drain);
  void Deliver(const v1::RendezvousValue& value) { rendezvous_.Deliver(value); }
  // A lease began. Says what became of the groups there are, so that the coordinator, perhaps one
  // that started anew, takes them over or ends them.
  void Attached();
  // The lease is gone: whatever groups there are have ended, and so have loads not yet begun.
  void Detached();
  // The same because the coordinator is gone: groups that serve go on without it for the grace.
  void Orphaned();

  // The engine of the group that this rank leads. Holding it keeps the group's memory; let go of it
  // soon after its calls fail. Epoch 0 means the only group that there is. Errors: kNotReady.
  absl::StatusOr<std::shared_ptr<Engine>> engine(uint64_t epoch) const;

  // Runs a step of the leader on this rank; a StepDone with a failure when this rank is not part of
  // the step's group.
  v1::StepDone Follow(const v1::Step& step);

  // The folder and name of the model that a group serves; epoch as above. Errors: kNotReady.
  struct Model {
    std::string id;
    std::string dir;
  };
  absl::StatusOr<Model> model(uint64_t epoch) const;

 private:
  struct Serving;
  struct Command {
    uint64_t epoch = 0;
    enum class Kind { kAssemble, kTakeApart } kind = Kind::kTakeApart;
  };

  void Push(const Command& command);
  void WorkLoop(const std::stop_token& stop);
  void Obey(const Command& command);
  // While there is nothing to obey.
  void Idle();
  // Ends a group at once: its calls fail, blocked collectives return, a load not yet begun never
  // begins. Memory is freed later, by TakeApart.
  // `cause`, for metrics, is empty where nothing is wrong.
  void EndGroup(uint64_t epoch, const std::string& why, std::string_view cause);
  // Both.
  void Dismiss(uint64_t epoch, const std::string& why, std::string_view cause);
  void TakeApart(uint64_t epoch);
  // Ends the groups whose coordinator did not come back.
  void EndOrphans();
  // Says of groups that drain that they are done.
  void ReportDrained();
  absl::Status Assemble(const std::shared_ptr<Serving>& serving);
  absl::Status Join(Serving& serving);
  void Lead(const std::shared_ptr<Serving>& serving);
  absl::StatusOr<std::span<const float>> TimedRun(Serving& serving, const v1::Step& step);
  // Metrics of the engine, where this rank has one: after every step, and while it idles.
  void Show(Serving& serving);
  // Counters of time and of collectives: ten times a second and when the rank is taken apart, for
  // they are many.
  void ShowCosts(Serving& serving);
  // Of a step of a group that this rank leads, once it is done everywhere.
  void ShowSkew(const Serving& serving, std::span<const v1::StepDone> followers);
  // A step of a group that this rank leads failed; `first`: that is what ended the group.
  void CountBroken(const absl::Status& why, bool first);
  void ShowEngineCosts(Serving& serving, EngineFigures& counted);
  void ShowCollectives(Serving& serving, std::vector<CollectiveFigures>& counted);
  // Gauges of a model, over the groups that serve it, two while one takes over from the other: what
  // they hold, which loading and unloading change, and what they do.
  void ShowHeld(const std::string& model_id);
  void ShowLoad(const std::string& model_id);
  void Report(uint64_t epoch, uint32_t rank, v1::RankState state, const absl::Status& why);
  // Null if there is none; epoch 0: the only one.
  std::shared_ptr<Serving> Find(uint64_t epoch) const;
  std::vector<std::shared_ptr<Serving>> All() const;

  const Options options_;
  const std::function<void(v1::Report)> send_;
  Metrics* const metrics_;
  RendezvousClient rendezvous_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Command> commands_ OCTAVO_GUARDED_BY(mutex_);
  // By epoch, from Load to TakeApart.
  std::map<uint64_t, std::shared_ptr<Serving>> servings_ OCTAVO_GUARDED_BY(mutex_);
  // When groups that go on without a coordinator end.
  std::optional<std::chrono::steady_clock::time_point> orphan_end_ OCTAVO_GUARDED_BY(mutex_);
  std::jthread thread_;
};

}  // namespace octavo
