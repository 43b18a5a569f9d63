#pragma once

// Makes this worker a rank of a serving group and takes it apart again: joins the collective, loads
// the rank's weights, and becomes the group's leader (an Engine with streams to its followers) or a
// follower. One group at a time; the coordinator's directives are worked off in order by one
// thread, but for aborts, which act at once.

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/mutex.h"
#include "core/metrics/metrics.h"
#include "kernels/isa.h"
#include "octavo/v1/cluster.pb.h"
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
  uint64_t weight_bytes = 0;
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
  void Deliver(const v1::RendezvousValue& value) { rendezvous_.Deliver(value); }
  // A lease began: group epochs may start again. Says what became of the present group, so that the
  // coordinator, perhaps one that started anew, takes it over or ends it.
  void Attached();
  // The lease is gone: whatever group there is has ended, and so have loads not yet begun.
  void Detached();
  // The same because the coordinator is gone: a group that serves goes on without it for the grace.
  void Orphaned();

  // The engine, if this rank leads a group. Holding it keeps the group's memory; let go of it soon
  // after its calls fail. Errors: kNotReady.
  absl::StatusOr<std::shared_ptr<Engine>> engine() const;

  // Runs a step of the leader on this rank; a StepDone with a failure when this rank is not part of
  // the step's group.
  v1::StepDone Follow(const v1::Step& step);

  // The folder and name of the model being served. Errors: kNotReady.
  struct Model {
    std::string id;
    std::string dir;
  };
  absl::StatusOr<Model> model() const;

 private:
  struct Serving;
  struct Command {
    std::optional<v1::LoadRank> load;  // absent: only take the present group apart
    uint64_t epoch = 0;                // of that group
    uint64_t lease = 0;                // under which it was given
  };

  void Push(uint64_t epoch, const v1::LoadRank* load);
  void WorkLoop(const std::stop_token& stop);
  // Ends the present group at once, if its epoch is at most `epoch`: its calls fail, blocked
  // collectives return. Memory is freed later, by TakeApart.
  void EndGroup(uint64_t epoch, const std::string& why);
  void TakeApart(uint64_t epoch);
  // Ends the group whose coordinator did not come back.
  void EndOrphan();
  absl::Status Assemble(const v1::LoadRank& load, uint64_t lease);
  absl::Status Join(const v1::LoadRank& load, Serving& serving);
  void Lead(const v1::LoadRank& load, const std::shared_ptr<Serving>& serving);
  absl::StatusOr<std::span<const float>> TimedRun(Serving& serving, const v1::Step& step);
  // Metrics of the engine, where this rank has one: after every step, and while it idles.
  void Show(Serving& serving);
  void ShowLoad(const EngineFigures& figures);
  void Report(uint64_t epoch, uint32_t rank, v1::RankState state, const absl::Status& why);
  std::shared_ptr<Serving> serving() const;

  const Options options_;
  const std::function<void(v1::Report)> send_;
  Metrics* const metrics_;
  RendezvousClient rendezvous_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Command> commands_ OCTAVO_GUARDED_BY(mutex_);
  std::shared_ptr<Serving> serving_ OCTAVO_GUARDED_BY(mutex_);
  uint64_t ended_epoch_ OCTAVO_GUARDED_BY(mutex_) = 0;  // groups up to it are over
  uint64_t lease_ OCTAVO_GUARDED_BY(mutex_) = 0;        // counts them
  // When the group that goes on without a coordinator ends.
  std::optional<std::chrono::steady_clock::time_point> orphan_end_ OCTAVO_GUARDED_BY(mutex_);
  std::jthread thread_;
};

}  // namespace octavo
