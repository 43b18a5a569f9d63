#include "worker/gpu/gpu_model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/fp_env.h"
#include "kernels/cuda/embedding/embedding.h"
#include "kernels/rope.h"
#include "worker/gpu/gpu_state.h"
#include "worker/runner/forward.h"

namespace octavo {
namespace {

constexpr size_t kFlags = 3;

// Cosines and sines of every position, [positions][head_dim / 2] BF16.
struct Rotation {
  std::vector<uint16_t> cos, sin;
};

Rotation MakeRotation(const v1::ServePlan& plan) {
  const FpEnv env;
  const int64_t head_dim = plan.model().head_dim();
  std::vector<float> frequencies(static_cast<size_t>(head_dim / 2));
  RopeFrequencies(RopeOf(plan.model()), frequencies.data());
  Rotation rotation;
  const auto size = static_cast<size_t>(plan.max_model_len() * head_dim / 2);
  rotation.cos.resize(size);
  rotation.sin.resize(size);
  for (int64_t position = 0; position < plan.max_model_len(); ++position) {
    const auto at = static_cast<size_t>(position * head_dim / 2);
    RopeRow(frequencies.data(), head_dim, position, &rotation.cos[at], &rotation.sin[at]);
  }
  return rotation;
}

}  // namespace

absl::Status GpuModel::State::Reserve() {
  const v1::ModelSpec& model = plan.model();
  const auto rows = static_cast<size_t>(plan.max_batched_tokens());
  const auto inner_rows = static_cast<size_t>(mlp_rows());
  const size_t keys = static_cast<size_t>(model.kv_head_count() * model.head_dim());
  const size_t queries = keys * static_cast<size_t>(group());
  const auto inner = static_cast<size_t>(weights.layers.front().gate.channels);
  const size_t widest = std::max({static_cast<size_t>(hidden()), queries, inner});
  const auto bf16 = [&](DeviceArray<uint16_t>* array, size_t size, std::string_view what) {
    auto made = DeviceArray<uint16_t>::Create(size, what);
    if (made.ok()) *array = *std::move(made);
    return made.status();
  };
  OCTAVO_RETURN_IF_ERROR(bf16(&x, rows * static_cast<size_t>(hidden()), "residual stream"));
  OCTAVO_RETURN_IF_ERROR(bf16(&normed, rows * static_cast<size_t>(hidden()), "normed rows"));
  OCTAVO_RETURN_IF_ERROR(bf16(&query, rows * queries, "queries"));
  OCTAVO_RETURN_IF_ERROR(bf16(&key, rows * keys, "keys"));
  OCTAVO_RETURN_IF_ERROR(bf16(&value, rows * keys, "values"));
  OCTAVO_RETURN_IF_ERROR(bf16(&attended, rows * queries, "attention"));
  OCTAVO_RETURN_IF_ERROR(bf16(&gate, inner_rows * inner, "MLP gate"));
  OCTAVO_RETURN_IF_ERROR(bf16(&up, inner_rows * inner, "MLP up"));
  OCTAVO_ASSIGN_OR_RETURN(codes, DeviceArray<uint8_t>::Create(inner_rows * widest, "codes"));
  OCTAVO_ASSIGN_OR_RETURN(
      row_scales,
      DeviceArray<float>::Create(inner_rows * (widest / kScaleBlock + 1), "scales of rows"));
  OCTAVO_ASSIGN_OR_RETURN(
      logits, DeviceArray<float>::Create(rows * static_cast<size_t>(model.vocab_size()), "logits"));
  OCTAVO_ASSIGN_OR_RETURN(flags, DeviceArray<uint32_t>::Create(kFlags, "flags"));
  const auto cache_bytes =
      static_cast<size_t>(model.layer_count() * plan.kv_block_count() * Pages(0).page_bytes());
  OCTAVO_ASSIGN_OR_RETURN(cache, DeviceArray<std::byte>::Create(cache_bytes, "KV cache"));
  return model.expert_count() > 0 ? ReserveMixture() : absl::OkStatus();
}

absl::Status GpuModel::State::ReserveMixture() {
  const auto rows = static_cast<size_t>(plan.max_batched_tokens());
  const auto all = static_cast<size_t>(mlp_rows());
  const auto experts = static_cast<size_t>(plan.model().expert_count());
  const auto columns = static_cast<size_t>(hidden());
  OCTAVO_ASSIGN_OR_RETURN(gathered, DeviceArray<uint16_t>::Create(all * columns, "visits"));
  OCTAVO_ASSIGN_OR_RETURN(visited, DeviceArray<float>::Create(all * columns, "experts' rows"));
  OCTAVO_ASSIGN_OR_RETURN(router_logits, DeviceArray<float>::Create(rows * experts, "the router"));
  OCTAVO_ASSIGN_OR_RETURN(visit_weights, DeviceArray<float>::Create(all, "weights of visits"));
  OCTAVO_ASSIGN_OR_RETURN(chosen, DeviceArray<int32_t>::Create(all, "experts of rows"));
  OCTAVO_ASSIGN_OR_RETURN(visits, DeviceArray<int32_t>::Create(all, "visits of rows"));
  OCTAVO_ASSIGN_OR_RETURN(visit_begin, DeviceArray<int32_t>::Create(experts + 1, "experts"));
  OCTAVO_ASSIGN_OR_RETURN(visitors, DeviceArray<int32_t>::Create(all, "rows of visits"));
  return absl::OkStatus();
}

cuda::KvPages GpuModel::State::Pages(size_t layer) const {
  cuda::KvPages pages{nullptr, plan.model().kv_head_count(), plan.model().head_dim(),
                      !scales.empty()};
  if (cache.size() > 0) {
    pages.data =
        cache.data() + static_cast<int64_t>(layer) * plan.kv_block_count() * pages.page_bytes();
  }
  return pages;
}

absl::Status GpuModel::State::Head(Logits* out) {
  const int64_t vocab = plan.model().vocab_size();
  out->rows = step.logit_count;
  out->vocab = vocab;
  out->values.resize(static_cast<size_t>(step.logit_count * vocab));
  if (step.logit_count > 0) {
    Norm(weights.final_norm, step.logit_rows.data(), step.logit_count);
    OCTAVO_RETURN_IF_ERROR(Product(weights.head, normed.data(), step.logit_count,
                                   {.out_f32 = logits.data(), .stride = vocab}));
  }
  if (!simt::Finish() || !simt::CopyFromDevice(out->values.data(), logits.data(),
                                               out->values.size() * sizeof(float), stream)) {
    return MakeError(Reason::kHardware, "the GPU failed");
  }
  return CheckFlags();
}

absl::Status GpuModel::State::CheckFlags() const {
  uint32_t read[kFlags];
  if (!simt::CopyFromDevice(read, flags.data(), sizeof(read), stream)) {
    return MakeError(Reason::kHardware, "the GPU failed");
  }
  if (!IsFiniteAmax(read[0])) return MakeError(Reason::kNonFinite, "an activation overflowed");
  if (read[2] != 0) {
    return MakeError(Reason::kNonFinite, "an activation is NaN or infinite at a router");
  }
  if (read[1] != 0) return MakeError(Reason::kInternal, "an id outside of the vocabulary");
  return absl::OkStatus();
}

GpuModel::GpuModel(std::unique_ptr<State> state) : state_(std::move(state)) {}
GpuModel::~GpuModel() = default;

absl::StatusOr<std::unique_ptr<GpuModel>> GpuModel::Load(const std::string& dir,
                                                         const v1::ServePlan& plan, int threads) {
  const int64_t head_dim = plan.model().head_dim();
  if (head_dim % 16 != 0 || head_dim > cuda::kAttentionHeadMax) {
    return MakeError(Reason::kUnsupported, fmt::format("on a GPU: heads of {}", head_dim));
  }
  auto state = std::make_unique<State>();
  state->plan = plan;
  ShardFiles files(dir);
  ThreadPool pool(threads);
  OCTAVO_ASSIGN_OR_RETURN(state->weights, LoadGpuWeights(state->plan, &files, &pool));
  OCTAVO_ASSIGN_OR_RETURN(state->scales, LoadCacheScales(state->plan, &files));
  const Rotation rotation = MakeRotation(plan);
  OCTAVO_ASSIGN_OR_RETURN(state->cos, DeviceArray<uint16_t>::Of(rotation.cos, "rotary cosines"));
  OCTAVO_ASSIGN_OR_RETURN(state->sin, DeviceArray<uint16_t>::Of(rotation.sin, "rotary sines"));
  OCTAVO_RETURN_IF_ERROR(state->Reserve());
  return std::unique_ptr<GpuModel>(new GpuModel(std::move(state)));
}

absl::Status GpuModel::Run(const v1::Step& asked, Logits* out) {
  State& s = *state_;
  OCTAVO_ASSIGN_OR_RETURN(const StepRows rows, FlattenStep(asked, s.plan));
  if (rows.rows() > s.plan.max_batched_tokens()) {
    return MakeError(Reason::kBadRequest, "a step of more tokens than planned");
  }
  OCTAVO_RETURN_IF_ERROR(
      UploadStep(asked, rows, s.group(), s.plan.model().kv_head_count(), s.stream, &s.step));
  if (!simt::ClearDevice(s.flags.data(), kFlags * sizeof(uint32_t), s.stream)) {
    return MakeError(Reason::kHardware, "the GPU failed");
  }
  const auto vocab = static_cast<int32_t>(s.plan.model().vocab_size());
  const std::byte* table =
      s.weights.embedding.size() > 0 ? s.weights.embedding.data() : s.weights.head.weights.data();
  Launch(cuda::EmbedTokens{.ids = s.step.ids.data(),
                           .rows = s.step.rows,
                           .columns = s.hidden(),
                           .table = reinterpret_cast<const uint16_t*>(table),
                           .begin = 0,
                           .end = vocab,
                           .vocabulary = vocab,
                           .out = s.x.data(),
                           .bad = s.flags.data() + 1},
         s.stream);
  for (size_t layer = 0; layer < s.weights.layers.size(); ++layer) {
    OCTAVO_RETURN_IF_ERROR(s.Attention(layer));
    const GpuLayer& own = s.weights.layers[layer];
    OCTAVO_RETURN_IF_ERROR(own.router.channels > 0 ? s.Moe(own, s.step.rows)
                                                   : s.Mlp(own, s.step.rows));
  }
  return s.Head(out);
}

}  // namespace octavo
