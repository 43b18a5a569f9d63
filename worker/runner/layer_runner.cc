#include "worker/runner/layer_runner.h"

#include <algorithm>
#include <numeric>
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
#include "worker/runner/weights.h"

namespace octavo {
namespace {

// Samples one after the other, each with key blocks of its own.
struct Samples {
  v1::Step step;
  StepRows rows;
  int64_t blocks = 0;
};

Samples LayOut(std::span<const uint32_t> lengths) {
  Samples out;
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
  State(const v1::ServePlan& layer_plan, const Options& chosen)
      : plan(layer_plan), options(chosen) {}
  const v1::ServePlan plan;
  const Options options;
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
  auto state = std::make_unique<State>(plan, options);
  ShardFiles files(dir);
  ThreadPool pool(options.threads);
  OCTAVO_ASSIGN_OR_RETURN(LayerWeights layer, LoadLayer(state->plan, &files, &state->arena, &pool));
  state->weights.layers.push_back(std::move(layer));
  return std::unique_ptr<LayerRunner>(new LayerRunner(std::move(state)));
}

absl::Status LayerRunner::Run(std::span<const uint32_t> lengths, uint16_t* x,
                              const Observe& observe) const {
  const Samples samples = LayOut(lengths);
  Arena arena(0);
  ThreadPool pool(1);
  const auto group = MakeLocalGroup(1);
  const v1::ModelSpec& model = state_->plan.model();
  OCTAVO_ASSIGN_OR_RETURN(
      const KvCache cache,
      KvCache::Create(&arena, model.head_dim(), 1, model.kv_head_count(), samples.blocks, {}));
  Forward forward(state_->plan, 0, &state_->weights, &cache, group.front().get(), &pool, &arena,
                  state_->options.isa);
  OCTAVO_RETURN_IF_ERROR(forward.Init());
  return forward.RunLayer(samples.step, samples.rows, x, observe);
}

uint64_t LayerRunner::weight_bytes() const { return state_->arena.used_bytes(); }

uint64_t LayerRunner::WeightBytes(const v1::ServePlan& plan) {
  uint64_t bytes = 0;
  for (const v1::RankTensor& tensor : plan.ranks(0).tensors()) {
    const auto& shape = tensor.tensor().spec().shape();
    const int64_t elements =
        std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    bytes += static_cast<uint64_t>(elements) * 2;
  }
  return bytes + bytes / 16;  // padding of tiles
}

// The buffers of worker/runner/forward.h, with the quarter by which they grow beyond need.
uint64_t LayerRunner::RunBytes(const v1::ServePlan& plan, int64_t rows, int64_t longest) {
  const v1::ModelSpec& model = plan.model();
  const int64_t heads = (model.head_count() + 2 * model.kv_head_count()) * model.head_dim();
  const int64_t visits = std::max<int64_t>(1, model.experts_per_token());
  const int64_t inner = model.intermediate_size();
  const int64_t widest = std::max({inner, model.hidden_size(), heads});
  int64_t per_row = 2 * (2 * model.hidden_size() + 2 * heads) + visits * inner * 4 +
                    visits * RoundUp(widest, 32) * 4;
  if (model.expert_count() > 0)
    per_row += visits * model.hidden_size() * 6 + model.hidden_size() * 4;
  const int64_t keys = 4 * RoundUp(longest, kKeyBlock) * 64;
  return static_cast<uint64_t>(rows * per_row * 5 / 4 + keys) + (4u << 20);
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
          Reason::kBadRequest,
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
