#pragma once

// Between a LoadRank directive and the runner.

#include "absl/status/statusor.h"
#include "worker/runner/runner.h"
#include "worker/serve/rank_host.h"

namespace octavo {

// Loads the rank's part of the model with ModelRunner::Load; its errors.
absl::StatusOr<RankModel> LoadModel(const v1::LoadRank& load, Communicator* communicator,
                                    const RunnerOptions& options);

}  // namespace octavo
