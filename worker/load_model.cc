#include "worker/load_model.h"

#include <memory>
#include <utility>

#include "core/base/status.h"

namespace octavo {

absl::StatusOr<RankModel> LoadModel(const v1::LoadRank& load, Communicator* communicator,
                                    const RunnerOptions& options) {
  OCTAVO_ASSIGN_OR_RETURN(
      std::unique_ptr<ModelRunner> loaded,
      ModelRunner::Load(load.model_dir(), load.plan(), load.rank(), communicator, options));
  const std::shared_ptr<ModelRunner> runner = std::move(loaded);
  return RankModel{
      .run = [runner](const v1::Step& step, Logits* out) { return runner->Run(step, out); },
      .kv_block_count = runner->kv_block_count(),
      .weight_bytes = runner->weight_bytes(),
      .threads = options.threads,
      .spread = [runner](int64_t count, const auto& body) { runner->Spread(count, body); }};
}

}  // namespace octavo
