#include "worker/runner/layer_runner.h"

#include <algorithm>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"
#include "worker/comm/local_group.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/runner/forward.h"
#include "worker/runner/kv_cache.h"
#include "worker/runner/read_tensor.h"
#include "worker/runner/shard_files.h"
#include "worker/runner/weight_stream.h"
#include "worker/runner/weights.h"

namespace octavo {
namespace {

// Samples one after the other, each with key blocks of its own.
struct LaidOut {
  v1::Step step;
  StepRows rows;
  int64_t blocks = 0;
};

LaidOut LayOut(std::span<const uint32_t> lengths) {
  LaidOut out;
  for (const uint32_t length : lengths) {
    v1::StepChunk* chunk = out.step.add_chunks();
    for (int64_t block = 0; block < CeilDiv(int64_t{length}, kKeyBlock); ++block) {
      chunk->add_blocks(static_cast<uint32_t>(out.blocks++));
    }
    for (uint32_t position = 0; position < length; ++position) {
      chunk->add_tokens(0);
      out.rows.ids.push_back(0);
      out.rows.positions.push_back(position);
      out.rows.chunks.push_back(out.step.chunks_size() - 1);
    }
    out.rows.context_max = std::max<int64_t>(out.rows.context_max, length);
  }
  return out;
}

}  // namespace

struct LayerRunner::State {
  State(const std::string& dir, const v1::ServePlan& layer_plan, const Options& chosen)
      : plan(layer_plan), options(chosen), files(dir) {}
  const v1::ServePlan plan;
  const Options options;
  ShardFiles files;
  Arena arena{0};
  WeightSet weights;
};

LayerRunner::LayerRunner(std::unique_ptr<State> state) : state_(std::move(state)) {}
LayerRunner::~LayerRunner() = default;

absl::StatusOr<std::unique_ptr<LayerRunner>> LayerRunner::Load(const std::string& dir,
                                                               const v1::ServePlan& plan,
                                                               const Options& options) {
  if (!IsSupported(options.isa)) {
    return MakeError(Reason::kHardware,
                     fmt::format("this machine does not run {} kernels", Name(options.isa)));
  }
  auto state = std::make_unique<State>(dir, plan, options);
  ThreadPool pool(options.threads);
  OCTAVO_ASSIGN_OR_RETURN(LayerWeights layer, LoadLayer(state->plan, options.residency,
                                                        &state->files, &state->arena, &pool));
  state->weights.layers.push_back(std::move(layer));
  return std::unique_ptr<LayerRunner>(new LayerRunner(std::move(state)));
}

absl::Status LayerRunner::Run(const Samples& samples, uint16_t* x, const Observe& observe,
                              const std::stop_token& stop) const {
  const LaidOut laid_out = LayOut(samples.lengths);
  const bool streamed = state_->options.residency == Residency::kStreamed;
  Arena arena(0);
  ThreadPool pool(streamed ? state_->options.threads : 1);
  const auto group = MakeLocalGroup(1);
  const v1::ModelSpec& model = state_->plan.model();
  OCTAVO_ASSIGN_OR_RETURN(
      const KvCache cache,
      KvCache::Create(&arena, model.head_dim(), 1, model.kv_head_count(), laid_out.blocks, {}));
  WeightStream stream(&state_->files, &pool, &arena, state_->options.stream_bytes, stop);
  Forward forward(state_->plan, 0, &state_->weights, &cache, group.front().get(), &pool, &arena,
                  state_->options.isa);
  OCTAVO_RETURN_IF_ERROR(forward.Init());
  return forward.RunLayer(laid_out.step, laid_out.rows, x,
                          {.observe = &observe,
                           .stream = streamed ? &stream : nullptr,
                           .expert_quota = samples.expert_quota});
}

absl::Status ReadEmbeddingRows(const std::string& dir, const v1::TensorSpec& embedding,
                               std::span<const int32_t> ids, uint16_t* out) {
  ShardFiles files(dir);
  v1::RankTensor whole;
  *whole.mutable_tensor()->mutable_spec() = embedding;
  const SliceReader reader(&files, whole);
  std::vector<std::byte> row;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= embedding.shape(0)) {
      return MakeError(
          Reason::kBadData,
          fmt::format("token id {} where the vocabulary has {}", ids[i], embedding.shape(0)),
          {.tensor = embedding.name()}, "The tokenizer does not fit the model");
    }
    OCTAVO_RETURN_IF_ERROR(reader.ReadRows(ids[i], ids[i] + 1, &row));
    std::copy_n(reinterpret_cast<const uint16_t*>(row.data()), embedding.shape(1),
                out + static_cast<int64_t>(i) * embedding.shape(1));
  }
  return absl::OkStatus();
}

}  // namespace octavo
