#include "worker/load_model.h"

#include "core/base/error.h"

namespace octavo {

absl::StatusOr<RankModel> LoadModel(const v1::LoadRank&, Communicator*, const RunnerOptions&) {
  return MakeError(Reason::kUnsupported, "this build of the worker has no runner");
}

}  // namespace octavo
