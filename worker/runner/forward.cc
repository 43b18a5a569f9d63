#include "worker/runner/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/units.h"

namespace octavo {
namespace {

std::vector<LeafRun> AttentionRuns(const v1::ServePlan& plan) {
  std::vector<LeafRun> runs;
  for (const v1::RankPlan& rank : plan.ranks()) {
    runs.push_back({static_cast<int>(rank.attention_unit_begin()),
                    static_cast<int>(rank.attention_unit_end())});
  }
  return runs;
}

std::vector<LeafRun> MlpRuns(const v1::ServePlan& plan) {
  std::vector<LeafRun> runs;
  for (const v1::RankPlan& rank : plan.ranks()) {
    runs.push_back(
        {static_cast<int>(rank.mlp_unit_begin()), static_cast<int>(rank.mlp_unit_end())});
  }
  return runs;
}

}  // namespace

RopeParameters RopeOf(const v1::ModelSpec& model) {
  RopeParameters parameters;
  parameters.theta = model.rope_theta();
  parameters.head_dim = model.head_dim();
  const v1::RopeScaling& scaling = model.rope_scaling();
  if (scaling.type() == "linear") parameters.scaling = RopeScalingType::kLinear;
  if (scaling.type() == "llama3") parameters.scaling = RopeScalingType::kLlama3;
  if (parameters.scaling != RopeScalingType::kNone) {
    parameters.factor = static_cast<float>(scaling.factor());
  }
  parameters.low_factor = static_cast<float>(scaling.low_freq_factor());
  parameters.high_factor = static_cast<float>(scaling.high_freq_factor());
  parameters.original_max_position = static_cast<float>(scaling.original_max_position());
  return parameters;
}

Forward::Forward(const v1::ServePlan& plan, uint32_t rank, const WeightSet* weights,
                 const KvCache* cache, Communicator* communicator, ThreadPool* pool, Arena* arena,
                 Isa isa)
    : plan_(plan),
      rank_plan_(plan.ranks(static_cast<int>(rank))),
      weights_(*weights),
      cache_(*cache),
      pool_(pool),
      arena_(arena),
      matmul_(MatmulOpsFor(isa)),
      attention_(AttentionOpsFor(isa)),
      norm_(NormOpsFor(isa)),
      rope_(RopeOpsFor(isa)),
      activation_(ActivationOpsFor(isa)),
      softmax_(SoftmaxOpsFor(isa)),
      quantize_(QuantizeActivationOpsFor(isa)),
      exchange_(communicator, arena),
      inputs_(isa, pool, arena),
      hidden_(plan.model().hidden_size()),
      head_dim_(plan.model().head_dim()),
      queries_per_head_(plan.model().head_count() / plan.model().kv_head_count()),
      kv_heads_(int64_t{rank_plan_.kv_head_end()} - rank_plan_.kv_head_begin()),
      frequencies_(static_cast<size_t>(head_dim_ / 2)) {}

absl::Status Forward::Init() {
  const FpEnv env;
  RopeFrequencies(RopeOf(plan_.model()), frequencies_.data());
  attention_pieces_ =
      MapPieces(static_cast<int>(plan_.attention_unit_count()), AttentionRuns(plan_), false);
  mlp_pieces_ = MapPieces(static_cast<int>(plan_.mlp_unit_count()), MlpRuns(plan_), false);
  exact_pieces_ = MapPieces(static_cast<int>(plan_.mlp_unit_count()), MlpRuns(plan_), true);
  for (const v1::RankPlan& rank : plan_.ranks()) {
    widest_vocab_ = std::max<int64_t>(widest_vocab_, rank.vocab_end() - rank.vocab_begin());
  }
  return workspace_.Init(arena_, pool_->size());
}

absl::Status Forward::Reserve(const v1::Step& step, const StepRows& rows) {
  const auto reserve = [&](GrowingBuffer* buffer, int64_t elements, std::string_view what) {
    return buffer->Reserve(arena_, static_cast<uint64_t>(elements) * 2, what);
  };
  const int64_t count = rows.rows();
  const int64_t keys = kv_heads_ * head_dim_;
  const LayerWeights& layer = weights_.layers.front();  // all layers are alike
  const int64_t inner = layer.experts.front().gate.channels;
  const int64_t visits = VisitsAtATime(count);
  OCTAVO_RETURN_IF_ERROR(reserve(&x_, count * hidden_, "residual stream"));
  OCTAVO_RETURN_IF_ERROR(reserve(&normed_, count * hidden_, "normed rows"));
  OCTAVO_RETURN_IF_ERROR(reserve(&query_, count * keys * queries_per_head_, "queries"));
  OCTAVO_RETURN_IF_ERROR(reserve(&attended_, count * keys * queries_per_head_, "attention"));
  OCTAVO_RETURN_IF_ERROR(reserve(&key_, count * keys, "keys"));
  OCTAVO_RETURN_IF_ERROR(reserve(&value_, count * keys, "values"));
  OCTAVO_RETURN_IF_ERROR(reserve(&gate_, visits * inner, "MLP gate"));
  OCTAVO_RETURN_IF_ERROR(reserve(&up_, visits * inner, "MLP up"));
  OCTAVO_RETURN_IF_ERROR(reserve(&cos_, count * head_dim_ / 2, "rotary cosines"));
  OCTAVO_RETURN_IF_ERROR(reserve(&sin_, count * head_dim_ / 2, "rotary sines"));
  if (layer.has_router()) {
    OCTAVO_RETURN_IF_ERROR(
        reserve(&router_logits_, count * layer.router.channels * 2, "router logits"));
    OCTAVO_RETURN_IF_ERROR(reserve(&gathered_, visits * hidden_, "rows of experts"));
    OCTAVO_RETURN_IF_ERROR(reserve(&visited_, visits * hidden_ * 2, "outputs of experts"));
    OCTAVO_RETURN_IF_ERROR(reserve(&expert_sums_, count * hidden_ * 2, "sums of experts"));
  }
  all_rows_.resize(static_cast<size_t>(count));
  std::iota(all_rows_.begin(), all_rows_.end(), 0);

  // At most about 32 queries at a time share one pass over the keys.
  const int64_t tokens_at_once = std::max<int64_t>(1, 32 / queries_per_head_);
  spans_.clear();
  int64_t row = 0;
  for (int chunk = 0; chunk < step.chunks_size(); ++chunk) {
    const int64_t end = row + step.chunks(chunk).tokens_size();
    for (; row < end; row += std::min(tokens_at_once, end - row)) {
      spans_.push_back({chunk, row, std::min(tokens_at_once, end - row)});
    }
  }
  const int64_t most = tokens_at_once * queries_per_head_;
  const int64_t context = RoundUp(rows.context_max, kKeyBlock);
  thread_scratch_bytes_ =
      RoundUp(most * 4 * (context + RoundUp(head_dim_, 32) + RoundUp(head_dim_, 16)), 64);
  return thread_scratch_.Reserve(
      arena_, static_cast<uint64_t>(thread_scratch_bytes_ * pool_->size()), "attention scores");
}

absl::Status Forward::ReserveLargestStep() {
  const auto count = static_cast<int64_t>(plan_.max_batched_tokens());
  StepRows rows;
  rows.ids.resize(static_cast<size_t>(count));
  rows.context_max = std::min(count, plan_.max_model_len());
  OCTAVO_RETURN_IF_ERROR(Reserve(v1::Step(), rows));
  const int64_t visits = VisitsAtATime(count);
  int64_t sent = 0;  // bytes of pieces
  const auto row_parallel = [&](const Linear& linear, const PieceMap& pieces, int64_t row_count) {
    sent = std::max(sent, pieces.pieces_per_rank * row_count * linear.channels * 4);
    const InputUse use = {&linear, 0, row_count};
    return inputs_.ReserveFor(std::span(&use, 1));
  };
  for (const LayerWeights& layer : weights_.layers) {
    const ExpertWeights& mlp = layer.experts.front();
    OCTAVO_RETURN_IF_ERROR(inputs_.ReserveFor(std::vector<InputUse>{
        {&layer.query, 0, count}, {&layer.key, 0, count}, {&layer.value, 0, count}}));
    OCTAVO_RETURN_IF_ERROR(row_parallel(layer.output, AttentionPieces(layer.output), count));
    if (layer.has_router()) {
      OCTAVO_RETURN_IF_ERROR(inputs_.ReserveFor(std::vector<InputUse>{{&layer.router, 0, count}}));
    }
    OCTAVO_RETURN_IF_ERROR(
        inputs_.ReserveFor(std::vector<InputUse>{{&mlp.gate, 0, visits}, {&mlp.up, 0, visits}}));
    OCTAVO_RETURN_IF_ERROR(row_parallel(mlp.down, MlpPieces(mlp.down), visits));
  }
  const auto sampled = static_cast<int64_t>(plan_.max_sequences());
  OCTAVO_RETURN_IF_ERROR(inputs_.ReserveFor(std::vector<InputUse>{{&weights_.head, 0, sampled}}));
  if (exchange_.ranks() == 1) return absl::OkStatus();
  sent = std::max(sent, sampled * widest_vocab_ * 4);
  return exchange_.SendBuffer(static_cast<uint64_t>(sent)).status();
}

absl::Status Forward::Embed(const StepRows& rows) {
  uint16_t* x = x_.as<uint16_t>();
  if (exchange_.ranks() == 1) {
    for (int64_t row = 0; row < rows.rows(); ++row) {
      weights_.EmbeddingRow(rows.ids[static_cast<size_t>(row)], hidden_, x + row * hidden_);
    }
    return absl::OkStatus();
  }
  // Every rank sends its own rows, one after the other; all know who owns which.
  std::vector<int64_t> counts(static_cast<size_t>(exchange_.ranks()));
  std::vector<std::pair<int, int64_t>> places;  // (rank, index among the rank's rows)
  for (const int32_t id : rows.ids) {
    int rank = 0;
    while (id >= plan_.ranks(rank).vocab_end()) ++rank;
    places.emplace_back(rank, counts[static_cast<size_t>(rank)]++);
  }
  const auto row_bytes = static_cast<uint64_t>(hidden_) * 2;
  const uint64_t bytes =
      static_cast<uint64_t>(*std::max_element(counts.begin(), counts.end())) * row_bytes;
  OCTAVO_ASSIGN_OR_RETURN(std::byte * send, exchange_.SendBuffer(bytes));
  for (size_t row = 0; row < places.size(); ++row) {
    const auto [rank, index] = places[row];
    if (rank != exchange_.rank()) continue;
    weights_.EmbeddingRow(rows.ids[row] - rank_plan_.vocab_begin(), hidden_,
                          reinterpret_cast<uint16_t*>(send) + index * hidden_);
  }
  OCTAVO_ASSIGN_OR_RETURN(const std::byte* all, exchange_.Gather());
  for (size_t row = 0; row < places.size(); ++row) {
    const auto [rank, index] = places[row];
    std::memcpy(
        x + row * static_cast<size_t>(hidden_),
        all + static_cast<uint64_t>(rank) * bytes + static_cast<uint64_t>(index) * row_bytes,
        row_bytes);
  }
  return absl::OkStatus();
}

void Forward::Norm(const std::vector<uint16_t>& weight, std::span<const int64_t> rows) {
  const auto eps = static_cast<float>(plan_.model().norm_eps());
  const auto norm = plan_.model().layer_norm() ? norm_.layer_norm : norm_.rms_norm;
  pool_->ParallelFor(static_cast<int64_t>(rows.size()), 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      norm(x_.as<uint16_t>() + rows[static_cast<size_t>(i)] * hidden_, weight.data(), hidden_, eps,
           normed_.as<uint16_t>() + i * hidden_);
    }
  });
}

absl::Status Forward::Head(const StepRows& rows, Logits* out) {
  const auto count = static_cast<int64_t>(rows.logits.size());
  const int64_t vocab = plan_.model().vocab_size();
  if (out != nullptr) {
    out->rows = count;
    out->vocab = vocab;
    // Every value is written below: nothing is cleared.
    out->values.resize(exchange_.rank() == 0 ? static_cast<size_t>(count * vocab) : 0);
  }
  if (count == 0) return absl::OkStatus();
  Norm(weights_.final_norm, rows.logits);
  const Linear* linears[] = {&weights_.head};
  OCTAVO_RETURN_IF_ERROR(inputs_.Prepare(linears, normed_.as<uint16_t>(), hidden_, count, nullptr));
  const bool leader = exchange_.rank() == 0 && out != nullptr;
  LinearJob job = {&weights_.head, inputs_.For(weights_.head), {}};
  if (exchange_.ranks() == 1) {
    std::vector<float> unused(leader ? 0 : static_cast<size_t>(count * vocab));
    job.output.f32 = leader ? out->values.data() : unused.data();
    job.output.stride = vocab;
    RunLinears(matmul_, pool_, std::span(&job, 1), &workspace_);
    return absl::OkStatus();
  }
  const auto bytes = static_cast<uint64_t>(count * widest_vocab_) * 4;
  OCTAVO_ASSIGN_OR_RETURN(std::byte * send, exchange_.SendBuffer(bytes));
  job.output.f32 = reinterpret_cast<float*>(send);
  job.output.stride = widest_vocab_;
  RunLinears(matmul_, pool_, std::span(&job, 1), &workspace_);
  OCTAVO_ASSIGN_OR_RETURN(const std::byte* all, exchange_.Gather());
  if (!leader) return absl::OkStatus();
  for (int rank = 0; rank < exchange_.ranks(); ++rank) {
    const v1::RankPlan& theirs = plan_.ranks(rank);
    const auto* from = reinterpret_cast<const float*>(all + static_cast<uint64_t>(rank) * bytes);
    for (int64_t row = 0; row < count; ++row) {
      std::memcpy(out->values.data() + row * vocab + theirs.vocab_begin(),
                  from + row * widest_vocab_,
                  static_cast<size_t>(theirs.vocab_end() - theirs.vocab_begin()) * 4);
    }
  }
  return absl::OkStatus();
}

void Forward::PrepareRotation(const StepRows& rows) {
  for (int64_t row = 0; row < rows.rows(); ++row) {
    const int64_t at = row * (head_dim_ / 2);
    RopeRow(frequencies_.data(), head_dim_, rows.positions[static_cast<size_t>(row)],
            cos_.as<uint16_t>() + at, sin_.as<uint16_t>() + at);
  }
}

absl::Status Forward::See(v1::ObservedPoint point, const GrowingBuffer& x, int64_t rows,
                          int64_t columns) {
  if (pass_.observe == nullptr) return absl::OkStatus();
  return (*pass_.observe)({point, -1, x.as<uint16_t>(), rows, columns, rows});
}

absl::Status Forward::Products(std::span<const LinearJob> jobs) {
  if (pass_.stream != nullptr) return pass_.stream->Run(matmul_, jobs, &workspace_);
  RunLinears(matmul_, pool_, jobs, &workspace_);
  return absl::OkStatus();
}

absl::Status Forward::Layer(int64_t layer, const v1::Step& step, const StepRows& rows) {
  OCTAVO_RETURN_IF_ERROR(Attention(layer, step, rows));
  const bool mixture = weights_.layers[static_cast<size_t>(layer)].has_router();
  return mixture ? Moe(layer, step, rows) : Mlp(layer, rows);
}

void Forward::KeepResiduals(int64_t layer, const StepRows& rows, Logits* out) const {
  int64_t place = layer;  // of a stream among all rows' and layers'
  for (const int64_t row : rows.residuals) {
    std::memcpy(out->residuals.data() + place * hidden_, x_.as<uint16_t>() + row * hidden_,
                static_cast<size_t>(hidden_) * 2);
    place += plan_.model().layer_count();
  }
}

absl::Status Forward::Run(const v1::Step& step, const StepRows& rows, Logits* out) {
  const FpEnv env;
  OCTAVO_RETURN_IF_ERROR(Reserve(step, rows));
  PrepareRotation(rows);
  OCTAVO_RETURN_IF_ERROR(Embed(rows));
  const bool keeps = exchange_.rank() == 0 && out != nullptr;
  if (keeps) {
    out->residuals.resize(rows.residuals.size() *
                          static_cast<size_t>(plan_.model().layer_count() * hidden_));
  }
  expert_tokens_.assign(static_cast<size_t>(plan_.model().expert_count()), 0);
  for (int64_t layer = 0; layer < plan_.model().layer_count(); ++layer) {
    OCTAVO_RETURN_IF_ERROR(Layer(layer, step, rows));
    if (keeps) KeepResiduals(layer, rows, out);
  }
  if (keeps) out->expert_tokens = expert_tokens_;
  return Head(rows, out);
}

absl::Status Forward::RunLayer(const v1::Step& step, const StepRows& rows, uint16_t* x,
                               const LayerPass& pass) {
  const FpEnv env;
  pass_ = pass;
  OCTAVO_RETURN_IF_ERROR(Reserve(step, rows));
  PrepareRotation(rows);
  const auto bytes = static_cast<size_t>(rows.rows() * hidden_) * 2;
  std::memcpy(x_.as<uint16_t>(), x, bytes);
  const absl::Status status = Layer(0, step, rows);
  pass_ = {};
  std::memcpy(x, x_.as<uint16_t>(), bytes);
  return status;
}

}  // namespace octavo
