#pragma once

// What RankHost holds of a group that it is a rank of. For rank_host.cc, rank_lease.cc and
// rank_figures.cc.

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/mutex.h"
#include "worker/comm/metered_group.h"
#include "worker/serve/engine.h"
#include "worker/serve/follower.h"
#include "worker/serve/rank_host.h"

namespace octavo {

// A rank of a group. Members are destroyed from the last to the first: the engine's hooks use
// everything above it.
struct RankHost::Serving {
  v1::LoadRank load;
  Mutex mutex;  // over `over` and against Abort during construction
  std::unique_ptr<MeteredGroup> communicator;
  RankModel model;
  Logits logits;
  std::optional<FollowerLink> link;
  std::unique_ptr<Follower> follower;
  Mutex showing;
  // What the counters already have: after every step, and of what is shown less often.
  EngineFigures counted OCTAVO_GUARDED_BY(showing);
  EngineFigures costs_counted OCTAVO_GUARDED_BY(showing);
  std::vector<CollectiveFigures> collectives_counted OCTAVO_GUARDED_BY(showing);
  uint64_t compute_counted OCTAVO_GUARDED_BY(showing) = 0;  // nanoseconds
  std::atomic<uint64_t> run_nanos = 0;                      // of steps, collectives included
  uint64_t waited_nanos = 0;  // in the last step's collectives; of the thread that runs steps
  bool ready = false;
  bool over = false;
  bool draining = false;
  std::string why;
  std::unique_ptr<Engine> engine;

  // False where it was over already.
  bool End(const std::string& reason) {
    MutexLock lock(mutex);
    if (over) return false;
    over = true;
    why = reason;
    // The engine first, so that its calls carry this reason and not a consequence of it.
    if (engine != nullptr) engine->Abort(MakeError(Reason::kGroupLost, reason));
    if (communicator != nullptr) communicator->Abort(reason);
    if (link.has_value()) link->abort();
    return true;
  }
};

}  // namespace octavo
