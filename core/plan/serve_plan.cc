#include "core/plan/serve_plan.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/plan/serve_tensors.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"

namespace octavo {
namespace {

bool IsBlockScaled(const ServedTensor& tensor) {
  return tensor.scheme && tensor.scheme->weight().granularity() == v1::PER_BLOCK;
}

// Element ranges that one rank owns.
struct RankRanges {
  LeafRun query, key, inner, vocab;
};

void AddTensor(const ServedTensor& served, const RankRanges& ranges, v1::RankPlan* plan) {
  v1::RankTensor* out = plan->add_tensors();
  *out->mutable_tensor() = served.tensor;
  if (served.scheme) *out->mutable_scheme() = *served.scheme;
  if (served.scale) *out->mutable_scale() = *served.scale;
  if (served.input_scale) *out->mutable_input_scale() = *served.input_scale;
  out->set_quantized_at_load(served.quantized_at_load);
  const auto slice = [&](uint32_t axis, LeafRun run) {
    out->mutable_slice()->set_axis(axis);
    out->mutable_slice()->set_begin(run.begin);
    out->mutable_slice()->set_end(run.end);
  };
  switch (served.tensor.role()) {
    case v1::EMBEDDING:
    case v1::LM_HEAD:
      slice(0, ranges.vocab);
      break;
    case v1::Q_PROJ:
    case v1::Q_BIAS:
      slice(0, ranges.query);
      break;
    case v1::K_PROJ:
    case v1::V_PROJ:
    case v1::K_BIAS:
    case v1::V_BIAS:
      slice(0, ranges.key);
      break;
    case v1::GATE_PROJ:
    case v1::UP_PROJ:
    case v1::GATE_BIAS:
    case v1::UP_BIAS:
    case v1::EXPERT_GATE:
    case v1::EXPERT_UP:
      slice(0, ranges.inner);
      break;
    case v1::O_PROJ:
      slice(1, ranges.query);
      break;
    case v1::DOWN_PROJ:
    case v1::EXPERT_DOWN:
      slice(1, ranges.inner);
      break;
    default:
      break;
  }
  // Bytes as the runner holds them: the same element size, 16-bit where the source is F32.
  uint64_t elements = 1;
  for (int i = 0; i < served.tensor.spec().shape_size(); ++i) {
    const int axis = served.tensor.transposed() ? 1 - i : i;
    const bool cut = out->has_slice() && out->slice().axis() == static_cast<uint32_t>(axis);
    elements *= cut ? out->slice().end() - out->slice().begin() : served.tensor.spec().shape(i);
  }
  plan->set_weight_bytes(plan->weight_bytes() + elements * (served.scheme ? 1 : 2));
}

absl::Status CheckRankCount(const v1::ModelSpec& model, uint32_t ranks, const UnitCut& attention,
                            const UnitCut& mlp) {
  const auto refuse = [&](const std::string& why, int64_t most) {
    return MakeError(Reason::kBadRequest, fmt::format("cannot serve with {} ranks: {}", ranks, why),
                     {}, fmt::format("use --tp {} or less", most));
  };
  if (ranks < 1) return MakeError(Reason::kBadRequest, "a group has at least one rank");
  if (ranks > model.kv_head_count()) {
    return refuse(fmt::format("the model has {} KV heads", model.kv_head_count()),
                  model.kv_head_count());
  }
  const int64_t most = std::min(attention.count, mlp.count);
  if (ranks > static_cast<uint32_t>(attention.count)) {
    return refuse(
        fmt::format("a unit of K would be cut, the attention output has {} of {} elements",
                    attention.count, attention.size),
        most);
  }
  if (ranks > static_cast<uint32_t>(mlp.count)) {
    return refuse(
        fmt::format("a unit of K would be cut, the MLP has {} of {} elements", mlp.count, mlp.size),
        most);
  }
  return absl::OkStatus();
}

// Bytes of one 32-token block of every layer for `heads` KV heads (kernels/attention.h: tiles of
// 512 elements).
uint64_t KvBlockBytes(const v1::ServePlan& plan, int64_t heads) {
  const v1::ModelSpec& model = plan.model();
  const int64_t tiles = CeilDiv(model.head_dim(), 32) * 2 + CeilDiv(model.head_dim(), 16);
  const int64_t element_bytes = plan.cache_scales().empty() ? 2 : 1;
  return static_cast<uint64_t>(model.layer_count() * heads * tiles * 512 * element_bytes);
}

absl::Status ChooseCache(const ServeOptions& options, std::span<const v1::CacheScales> scales,
                         v1::ServePlan* plan) {
  const v1::CacheType type = options.cache_type;
  if (options.kv_scale_one && type != v1::CACHE_FP8) {
    return MakeError(Reason::kBadRequest, "scales of 1 are for a cache that is asked to be FP8", {},
                     "add --kv-cache-dtype fp8, or leave out --kv-scale-one");
  }
  if (type == v1::CACHE_BF16 || (type == v1::CACHE_AUTO && scales.empty())) {
    return absl::OkStatus();
  }
  if (scales.empty() && options.kv_scale_one) {
    for (int64_t i = 0; i < plan->model().layer_count(); ++i) plan->add_cache_scales();
    return absl::OkStatus();
  }
  if (scales.empty()) {
    return MakeError(Reason::kBadRequest,
                     "an FP8 cache needs scales of keys and values, the checkpoint has none", {},
                     "calibrate them (a recipe with kv_cache), allow scales of 1 with "
                     "--kv-scale-one, or use --kv-cache-dtype auto");
  }
  if (static_cast<int64_t>(scales.size()) != plan->model().layer_count()) {
    return MakeError(Reason::kBadCheckpoint,
                     fmt::format("scales of keys and values of {} layers, the model has {}",
                                 scales.size(), plan->model().layer_count()));
  }
  for (const v1::CacheScales& layer : scales) *plan->add_cache_scales() = layer;
  return absl::OkStatus();
}

bool HasStaticInputs(const v1::ServePlan& plan) {
  const auto& tensors = plan.ranks(0).tensors();
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const v1::RankTensor& tensor) { return tensor.has_input_scale(); });
}

// Rows of logits of one step: the last of every sequence and those of a scored chunk. The leader
// has them once, a scored chunk's once more until they are taken, and every rank those it sends and
// receives (buffers grow by a quarter more than was asked for).
uint64_t LogitsBytes(const v1::ServePlan& plan) {
  const uint64_t row = static_cast<uint64_t>(plan.model().vocab_size()) * 4;
  const uint64_t scored =
      std::min(std::max(row, kScoreLogitsBytes), plan.max_batched_tokens() * row);
  const uint64_t rows = plan.max_sequences() * row + scored;
  const uint64_t ranks = plan.rank_count();
  return rows + scored + (ranks > 1 ? rows * 5 / 4 * (ranks + 1) / ranks : 0);
}

// An upper estimate of what one step of max_batched_tokens and the queue need beside weights and
// cache.
uint64_t ScratchBytes(const v1::ServePlan& plan, int64_t max_model_len) {
  const v1::ModelSpec& model = plan.model();
  const uint32_t ranks = plan.rank_count();
  const int64_t widest = std::max(model.intermediate_size(), model.head_count() * model.head_dim());
  const int64_t visits = std::max<int64_t>(1, model.experts_per_token());
  // Projections of different static scales read F32 codes of their own: at most q, k and v.
  const int64_t per_visit = 10 * widest + (HasStaticInputs(plan) ? 20 : 12) * model.hidden_size() +
                            (ranks > 1 ? 16 * model.hidden_size() * (ranks + 1) : 0);
  const int64_t per_token =
      per_visit * visits + (model.expert_count() > 0 ? 8 * model.hidden_size() : 0);
  return LogitsBytes(plan) + 8 * kQueueTokensMax +
         static_cast<uint64_t>(plan.max_batched_tokens() * per_token + 64 * 4 * max_model_len +
                               (8 << 20));
}

absl::Status SizeCache(const ServeOptions& options, v1::ServePlan* plan) {
  const v1::ModelSpec& model = plan->model();
  const bool chosen = options.max_model_len > 0;
  int64_t length = chosen ? options.max_model_len : model.max_position();
  if (length > model.max_position()) {
    return MakeError(Reason::kBadRequest, fmt::format("max_model_len {} exceeds the model's {}",
                                                      length, model.max_position()));
  }
  const int64_t cap = options.kv_cache_tokens;
  if (cap > 0 && length > cap) {
    if (chosen) {
      return MakeError(
          Reason::kBadRequest,
          fmt::format("kv_cache_tokens {} hold no sequence of max_model_len {}", cap, length));
    }
    length = cap;
  }
  uint64_t weights = 0;
  int64_t heads = 0;
  for (const v1::RankPlan& rank : plan->ranks()) {
    weights = std::max(weights, rank.weight_bytes());
    heads = std::max<int64_t>(heads, rank.kv_head_end() - rank.kv_head_begin());
  }
  const uint64_t block = KvBlockBytes(*plan, heads);
  const auto blocks_of = [&](int64_t tokens) {
    const int64_t rest = tokens % kKvBlockTokens;  // CeilDiv would overflow where a client asks
    return static_cast<uint64_t>(tokens / kKvBlockTokens + (rest > 0 ? 1 : 0));  // for INT64_MAX
  };
  const auto need = [&](int64_t tokens) {
    return weights + blocks_of(tokens) * block + ScratchBytes(*plan, tokens);
  };
  uint64_t spare = UINT64_MAX;  // blocks, beside those of one sequence
  if (options.rank_memory_bytes != 0) {
    while (!chosen && length > kKvBlockTokens && need(length) > options.rank_memory_bytes) {
      length = length * 7 / 8;
    }
    if (need(length) > options.rank_memory_bytes) {
      return MakeError(Reason::kOutOfMemory,
                       fmt::format("a rank needs {} bytes ({} of weights, {} of KV cache for {} "
                                   "tokens, {} of scratch for {} tokens at a time of {} sequences)"
                                   ", it has {}",
                                   need(length), weights, blocks_of(length) * block, length,
                                   ScratchBytes(*plan, length), plan->max_batched_tokens(),
                                   plan->max_sequences(), options.rank_memory_bytes),
                       {},
                       "give workers more --memory, use more ranks or a smaller --max-model-len, "
                       "--max-batched-tokens or --max-sequences");
    }
    spare = (options.rank_memory_bytes - need(length)) / block;
  }
  uint64_t others = blocks_of(length) * (plan->max_sequences() - 1);
  if (cap > 0) others = std::min(others, blocks_of(cap) - blocks_of(length));
  plan->set_max_model_len(length);
  plan->set_kv_block_count(static_cast<uint32_t>(blocks_of(length) + std::min(spare, others)));
  for (v1::RankPlan& rank : *plan->mutable_ranks()) {
    rank.set_kv_bytes(plan->kv_block_count() *
                      KvBlockBytes(*plan, rank.kv_head_end() - rank.kv_head_begin()));
    rank.set_scratch_bytes(ScratchBytes(*plan, length));
  }
  return absl::OkStatus();
}

void FillRank(const v1::ModelSpec& model, const UnitCut& attention, const UnitCut& mlp,
              int64_t groups_per_unit, std::span<const ServedTensor> tensors, uint32_t rank,
              uint32_t ranks, v1::RankPlan* plan) {
  const LeafRun units = RunOfRank(attention.count, ranks, rank);
  const LeafRun mlp_units = RunOfRank(mlp.count, ranks, rank);
  const LeafRun vocab = RunOfRank(model.vocab_size(), ranks, rank);
  const auto heads = [&](int unit) {
    return static_cast<int>(std::min<int64_t>(unit * groups_per_unit, model.kv_head_count()));
  };
  const auto inner = [&](int unit) {
    return static_cast<int>(std::min<int64_t>(unit * mlp.size, model.intermediate_size()));
  };
  plan->set_rank(rank);
  plan->set_attention_unit_begin(units.begin);
  plan->set_attention_unit_end(units.end);
  plan->set_kv_head_begin(heads(units.begin));
  plan->set_kv_head_end(heads(units.end));
  plan->set_mlp_unit_begin(mlp_units.begin);
  plan->set_mlp_unit_end(mlp_units.end);
  plan->set_vocab_begin(vocab.begin);
  plan->set_vocab_end(vocab.end);
  const int key = static_cast<int>(model.head_dim());
  const int query = static_cast<int>(model.head_count() / model.kv_head_count()) * key;
  RankRanges ranges;
  ranges.query = {heads(units.begin) * query, heads(units.end) * query};
  ranges.key = {heads(units.begin) * key, heads(units.end) * key};
  ranges.inner = {inner(mlp_units.begin), inner(mlp_units.end)};
  ranges.vocab = vocab;
  for (const ServedTensor& tensor : tensors) AddTensor(tensor, ranges, plan);
}

}  // namespace

absl::StatusOr<v1::ServePlan> PlanServing(const v1::ModelSpec& model,
                                          std::span<const ServedTensor> tensors,
                                          const ServeOptions& options,
                                          std::span<const v1::CacheScales> cache_scales) {
  OCTAVO_RETURN_IF_ERROR(CheckServable(model));
  if (options.max_sequences < 1 || options.max_sequences > options.max_batched_tokens ||
      options.max_batched_tokens > kBatchedTokensLimit) {
    return MakeError(Reason::kBadRequest,
                     fmt::format("{} sequences at once in steps of {} tokens",
                                 options.max_sequences, options.max_batched_tokens),
                     {},
                     fmt::format("--max-sequences is 1 to --max-batched-tokens, at most {}",
                                 kBatchedTokensLimit));
  }
  OCTAVO_ASSIGN_OR_RETURN(auto selected, SelectTensors(model, tensors));
  v1::ServePlan plan;
  *plan.mutable_model() = model;
  if (options.head_type == v1::HEAD_FP8) {
    OCTAVO_RETURN_IF_ERROR(QuantizeHeadAtLoad(plan.mutable_model(), &selected));
  }
  plan.set_rank_count(options.rank_count);
  plan.set_max_batched_tokens(options.max_batched_tokens);
  plan.set_max_sequences(options.max_sequences);
  plan.set_block_scaled(std::any_of(selected.begin(), selected.end(), IsBlockScaled));
  const int64_t group_size = model.head_count() / model.kv_head_count() * model.head_dim();
  const UnitCut attention = AttentionUnits(model.kv_head_count(), group_size, plan.block_scaled());
  const UnitCut mlp = MlpUnits(model.intermediate_size(), plan.block_scaled());
  OCTAVO_RETURN_IF_ERROR(CheckRankCount(model, options.rank_count, attention, mlp));
  plan.set_attention_unit_count(attention.count);
  plan.set_attention_unit_size(attention.size);
  plan.set_mlp_unit_count(mlp.count);
  plan.set_mlp_unit_size(mlp.size);
  for (uint32_t rank = 0; rank < options.rank_count; ++rank) {
    FillRank(model, attention, mlp, AttentionGroupsPerUnit(group_size, plan.block_scaled()),
             selected, rank, options.rank_count, plan.add_ranks());
  }
  OCTAVO_RETURN_IF_ERROR(ChooseCache(options, cache_scales, &plan));
  OCTAVO_RETURN_IF_ERROR(SizeCache(options, &plan));
  return plan;
}

}  // namespace octavo
