#include "worker/runner/runner.h"

#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/runner/forward.h"
#include "worker/runner/kv_cache.h"
#include "worker/runner/shard_files.h"
#include "worker/runner/step_plan.h"
#include "worker/runner/weights.h"

namespace octavo {

struct ModelRunner::State {
  State(const v1::ServePlan& serve_plan, const RunnerOptions& options)
      : plan(serve_plan), arena(options.memory_bytes), pool(options.threads) {}

  v1::ServePlan plan;
  Arena arena;  // outlives every buffer below
  ThreadPool pool;
  WeightSet weights;
  KvCache cache;
  std::unique_ptr<Forward> forward;
};

ModelRunner::ModelRunner(std::unique_ptr<State> state) : state_(std::move(state)) {}
ModelRunner::~ModelRunner() = default;

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Load(const std::string& dir,
                                                               const v1::ServePlan& plan,
                                                               uint32_t rank,
                                                               Communicator* communicator,
                                                               const RunnerOptions& options) {
  if (plan.ranks_size() != static_cast<int>(plan.rank_count()) || rank >= plan.rank_count() ||
      communicator->size() != plan.ranks_size() || communicator->rank() != static_cast<int>(rank) ||
      options.threads < 1) {
    return MakeError(
        Reason::kInternal,
        fmt::format("rank {} of a plan of {} does not fit rank {} of a group of {}", rank,
                    plan.ranks_size(), communicator->rank(), communicator->size()));
  }
  if (!IsSupported(options.isa)) {
    return MakeError(Reason::kHardware,
                     fmt::format("this machine does not run {} kernels", Name(options.isa)), {},
                     "use --isa auto");
  }
  auto state = std::make_unique<State>(plan, options);
  ShardFiles files(dir);
  OCTAVO_ASSIGN_OR_RETURN(state->weights, LoadWeights(state->plan, rank, &files, &state->arena,
                                                      &state->pool, options.isa));
  const v1::RankPlan& own = state->plan.ranks(static_cast<int>(rank));
  OCTAVO_ASSIGN_OR_RETURN(std::vector<KvScale> scales, LoadCacheScales(state->plan, &files));
  OCTAVO_ASSIGN_OR_RETURN(
      state->cache,
      KvCache::Create(&state->arena, plan.model().head_dim(), plan.model().layer_count(),
                      int64_t{own.kv_head_end()} - own.kv_head_begin(), plan.kv_block_count(),
                      std::move(scales)));
  state->forward =
      std::make_unique<Forward>(state->plan, rank, &state->weights, &state->cache, communicator,
                                &state->pool, &state->arena, options.isa);
  state->arena.set_touches(true);
  OCTAVO_RETURN_IF_ERROR(state->forward->Init());
  OCTAVO_RETURN_IF_ERROR(state->forward->ReserveLargestStep());
  state->arena.set_touches(false);
  return std::unique_ptr<ModelRunner>(new ModelRunner(std::move(state)));
}

absl::Status ModelRunner::Run(const v1::Step& step, Logits* out) {
  OCTAVO_ASSIGN_OR_RETURN(const StepRows rows, FlattenStep(step, state_->plan));
  if (rows.rows() == 0) {
    if (out != nullptr) *out = {0, state_->plan.model().vocab_size(), {}};
    return absl::OkStatus();
  }
  return state_->forward->Run(step, rows, out);
}

void ModelRunner::Spread(int64_t count, const std::function<void(int64_t i, int thread)>& body) {
  state_->pool.ParallelFor(count, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) body(i, thread);
  });
}

const v1::ServePlan& ModelRunner::plan() const { return state_->plan; }
uint32_t ModelRunner::kv_block_count() const { return state_->plan.kv_block_count(); }
uint64_t ModelRunner::resident_bytes() const { return state_->arena.used_bytes(); }
WeightBytes ModelRunner::weight_bytes() const { return state_->weights.held(); }

}  // namespace octavo
