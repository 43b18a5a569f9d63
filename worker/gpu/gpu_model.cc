#include "worker/gpu/gpu_model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/fp_env.h"
#include "kernels/cuda/activation/activation.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/embedding/embedding.h"
#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/quantize/quantize.h"
#include "kernels/cuda/rope/rope.h"
#include "kernels/rope.h"
#include "worker/gpu/gpu_weights.h"
#include "worker/runner/forward.h"
#include "worker/runner/kv_cache.h"
#include "worker/runner/step_plan.h"

namespace octavo {
namespace {

constexpr int64_t kBlocksWanted = 264;  // two for each multiprocessor of an H100

// A step as the kernels want it, in the GPU's memory.
struct GpuStep {
  DeviceArray<int32_t> ids, positions, slots, logit_rows, tables;
  DeviceArray<cuda::AttentionSpan> spans;
  DeviceArray<cuda::AttentionItem> items;
  DeviceArray<cuda::AttentionMerge> merges;
  DeviceArray<float> scratch;
  int64_t rows = 0;
  int64_t logit_count = 0;
  int64_t table_stride = 0;
};

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

absl::StatusOr<GpuStep> Upload(const v1::Step& step, const StepRows& rows, int64_t group,
                               int64_t kv_heads) {
  std::vector<cuda::AttentionSpan> spans;
  std::vector<int32_t> positions, slots, logit_rows;
  size_t stride = 1;
  int32_t first = 0;
  for (const v1::StepChunk& chunk : step.chunks()) {
    spans.push_back({first, chunk.tokens_size(), static_cast<int32_t>(chunk.start())});
    first += chunk.tokens_size();
    stride = std::max(stride, static_cast<size_t>(chunk.blocks_size()));
  }
  std::vector<int32_t> tables(spans.size() * stride, 0);
  for (int i = 0; i < step.chunks_size(); ++i) {
    std::copy(step.chunks(i).blocks().begin(), step.chunks(i).blocks().end(),
              tables.begin() + static_cast<int64_t>(static_cast<size_t>(i) * stride));
  }
  for (size_t row = 0; row < rows.positions.size(); ++row) {
    const auto position = static_cast<int32_t>(rows.positions[row]);
    const size_t table = static_cast<size_t>(rows.chunks[row]) * stride;
    const int32_t page = tables[table + static_cast<size_t>(position / cuda::kPageTokens)];
    positions.push_back(position);
    slots.push_back(page * static_cast<int32_t>(cuda::kPageTokens) +
                    position % static_cast<int32_t>(cuda::kPageTokens));
  }
  for (const int64_t row : rows.logits) logit_rows.push_back(static_cast<int32_t>(row));
  const cuda::AttentionPlan plan = cuda::PlanAttention(spans, group, kv_heads, kBlocksWanted);

  GpuStep out;
  out.rows = rows.rows();
  out.logit_count = static_cast<int64_t>(logit_rows.size());
  out.table_stride = static_cast<int64_t>(stride);
  OCTAVO_ASSIGN_OR_RETURN(out.ids, DeviceArray<int32_t>::Of(rows.ids, "ids"));
  OCTAVO_ASSIGN_OR_RETURN(out.positions, DeviceArray<int32_t>::Of(positions, "positions"));
  OCTAVO_ASSIGN_OR_RETURN(out.slots, DeviceArray<int32_t>::Of(slots, "slots"));
  OCTAVO_ASSIGN_OR_RETURN(out.logit_rows, DeviceArray<int32_t>::Of(logit_rows, "rows of logits"));
  OCTAVO_ASSIGN_OR_RETURN(out.tables, DeviceArray<int32_t>::Of(tables, "block tables"));
  OCTAVO_ASSIGN_OR_RETURN(out.spans, DeviceArray<cuda::AttentionSpan>::Of(spans, "spans"));
  OCTAVO_ASSIGN_OR_RETURN(out.items, DeviceArray<cuda::AttentionItem>::Of(plan.items, "items"));
  OCTAVO_ASSIGN_OR_RETURN(out.merges, DeviceArray<cuda::AttentionMerge>::Of(plan.merges, "merges"));
  OCTAVO_ASSIGN_OR_RETURN(
      out.scratch,
      DeviceArray<float>::Create(
          static_cast<size_t>(plan.slots * cuda::AttentionSlotFloats(kv_heads)), "splits"));
  return out;
}

}  // namespace

struct GpuModel::State {
  v1::ServePlan plan;
  GpuWeights weights;
  std::vector<KvScale> scales;  // by layer; empty: a BF16 cache
  DeviceArray<uint16_t> cos, sin;
  DeviceArray<std::byte> cache;
  // Of a step of plan.max_batched_tokens.
  DeviceArray<uint16_t> x, normed, query, key, value, attended, gate, up;
  DeviceArray<uint8_t> codes;
  DeviceArray<float> row_scales, logits;
  DeviceArray<uint32_t> flags;  // largest magnitude that is not finite; a bad id's row + 1
  DeviceArray<std::byte> workspace;
  simt::Stream stream = nullptr;

  int64_t hidden() const { return plan.model().hidden_size(); }
  int64_t group() const { return plan.model().head_count() / plan.model().kv_head_count(); }

  absl::Status Reserve();
  cuda::KvPages Pages(size_t layer) const;
  absl::Status Product(const GpuLinear& linear, const uint16_t* input, int64_t rows,
                       const cuda::DenseFinish& finish);
  absl::Status ToBf16(const GpuLinear& linear, const uint16_t* input, int64_t rows,
                      const uint16_t* residual, uint16_t* out);
  void Norm(const DeviceArray<uint16_t>& weight, const int32_t* picked, int64_t rows);
  absl::Status Attention(size_t layer, const GpuStep& step);
  absl::Status Mlp(const GpuLayer& layer, int64_t rows);
  absl::Status Head(const GpuStep& step, Logits* out);
  absl::Status CheckFlags() const;
};

absl::Status GpuModel::State::Reserve() {
  const v1::ModelSpec& model = plan.model();
  const auto rows = static_cast<size_t>(plan.max_batched_tokens());
  const size_t keys = static_cast<size_t>(model.kv_head_count() * model.head_dim());
  const size_t queries = keys * static_cast<size_t>(group());
  const auto inner = static_cast<size_t>(weights.layers.front().gate.channels);
  const size_t widest = std::max({static_cast<size_t>(hidden()), queries, inner});
  const auto bf16 = [&](DeviceArray<uint16_t>* array, size_t columns, std::string_view what) {
    auto made = DeviceArray<uint16_t>::Create(rows * columns, what);
    if (made.ok()) *array = *std::move(made);
    return made.status();
  };
  OCTAVO_RETURN_IF_ERROR(bf16(&x, static_cast<size_t>(hidden()), "residual stream"));
  OCTAVO_RETURN_IF_ERROR(bf16(&normed, static_cast<size_t>(hidden()), "normed rows"));
  OCTAVO_RETURN_IF_ERROR(bf16(&query, queries, "queries"));
  OCTAVO_RETURN_IF_ERROR(bf16(&key, keys, "keys"));
  OCTAVO_RETURN_IF_ERROR(bf16(&value, keys, "values"));
  OCTAVO_RETURN_IF_ERROR(bf16(&attended, queries, "attention"));
  OCTAVO_RETURN_IF_ERROR(bf16(&gate, inner, "MLP gate"));
  OCTAVO_RETURN_IF_ERROR(bf16(&up, inner, "MLP up"));
  OCTAVO_ASSIGN_OR_RETURN(codes, DeviceArray<uint8_t>::Create(rows * widest, "codes"));
  OCTAVO_ASSIGN_OR_RETURN(
      row_scales, DeviceArray<float>::Create(rows * (widest / kScaleBlock + 1), "scales of rows"));
  OCTAVO_ASSIGN_OR_RETURN(
      logits, DeviceArray<float>::Create(rows * static_cast<size_t>(model.vocab_size()), "logits"));
  OCTAVO_ASSIGN_OR_RETURN(flags, DeviceArray<uint32_t>::Create(2, "flags"));
  const auto cache_bytes =
      static_cast<size_t>(model.layer_count() * plan.kv_block_count() * Pages(0).page_bytes());
  OCTAVO_ASSIGN_OR_RETURN(cache, DeviceArray<std::byte>::Create(cache_bytes, "KV cache"));
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

absl::Status GpuModel::State::Product(const GpuLinear& linear, const uint16_t* input, int64_t rows,
                                      const cuda::DenseFinish& finish) {
  if (rows == 0) return absl::OkStatus();
  cuda::Dense call{.types = linear.types,
                   .rows = rows,
                   .channels = linear.channels,
                   .depth = linear.depth,
                   .x = input,
                   .x_stride = linear.depth,
                   .w = linear.weights.data(),
                   .w_stride = linear.stride,
                   .units = linear.units,
                   .run = {0, linear.units.count},
                   .finish = finish};
  if (linear.bias.size() > 0) call.finish.bias = linear.bias.data();
  if (linear.form != InputForm::kBf16) {
    cuda::QuantizeTokens quantize{.x = input,
                                  .rows = rows,
                                  .columns = linear.depth,
                                  .factor = 1.0f / linear.static_scale,
                                  .codes = codes.data(),
                                  .scales = row_scales.data(),
                                  .worst = flags.data()};
    quantize.kind = linear.form == InputForm::kFp8Token    ? cuda::TokenScales::kDynamicFp8
                    : linear.form == InputForm::kFp8Group  ? cuda::TokenScales::kGroupsFp8
                    : linear.form == InputForm::kInt8Token ? cuda::TokenScales::kDynamicInt8
                                                           : cuda::TokenScales::kStaticFp8;
    Launch(quantize, stream);
    call.x = codes.data();
  }
  if (linear.form == InputForm::kFp8Group) {
    call.x_scales = row_scales.data();
    call.x_scale_stride = CeilDiv(linear.depth, kScaleBlock);
    call.w_scales = linear.scales.data();
    call.w_scale_stride = linear.scale_stride;
  } else {
    if (linear.scales.size() > 0) call.finish.channel_scales = linear.scales.data();
    if (linear.form == InputForm::kFp8Static) call.finish.row_scale = linear.static_scale;
    const bool dynamic =
        linear.form == InputForm::kFp8Token || linear.form == InputForm::kInt8Token;
    if (dynamic) call.finish.row_scales = row_scales.data();
  }
  const auto needed = static_cast<size_t>(cuda::DenseWorkspaceBytes(call));
  if (needed > workspace.size()) {
    if (!simt::Finish()) return MakeError(Reason::kHardware, "the GPU failed");
    OCTAVO_ASSIGN_OR_RETURN(workspace, DeviceArray<std::byte>::Create(needed, "products"));
  }
  call.workspace = workspace.data();
  Launch(call, stream);
  return absl::OkStatus();
}

absl::Status GpuModel::State::ToBf16(const GpuLinear& linear, const uint16_t* input, int64_t rows,
                                     const uint16_t* residual, uint16_t* out) {
  return Product(linear, input, rows,
                 {.residual = residual, .out = out, .stride = linear.channels});
}

void GpuModel::State::Norm(const DeviceArray<uint16_t>& weight, const int32_t* picked,
                           int64_t rows) {
  Launch(cuda::NormRows{.kind = plan.model().layer_norm() ? cuda::NormKind::kLayer
                                                          : cuda::NormKind::kRms,
                        .x = x.data(),
                        .source_rows = picked,
                        .rows = rows,
                        .columns = hidden(),
                        .weight = weight.data(),
                        .eps = static_cast<float>(plan.model().norm_eps()),
                        .out = normed.data()},
         stream);
}

absl::Status GpuModel::State::Attention(size_t index, const GpuStep& step) {
  const GpuLayer& layer = weights.layers[index];
  const KvScale scale = scales.empty() ? KvScale{} : scales[index];
  Norm(layer.attention_norm, nullptr, step.rows);
  OCTAVO_RETURN_IF_ERROR(ToBf16(layer.query, normed.data(), step.rows, nullptr, query.data()));
  OCTAVO_RETURN_IF_ERROR(ToBf16(layer.key, normed.data(), step.rows, nullptr, key.data()));
  OCTAVO_RETURN_IF_ERROR(ToBf16(layer.value, normed.data(), step.rows, nullptr, value.data()));
  const bool normed_heads = layer.query_norm.size() > 0;
  Launch(cuda::RotateAndStore{.query = query.data(),
                              .key = key.data(),
                              .value = value.data(),
                              .query_stride = layer.query.channels,
                              .key_stride = layer.key.channels,
                              .value_stride = layer.value.channels,
                              .tokens = step.rows,
                              .queries_per_head = group(),
                              .positions = step.positions.data(),
                              .slots = step.slots.data(),
                              .cos = cos.data(),
                              .sin = sin.data(),
                              .clip = static_cast<float>(plan.model().clip_qkv()),
                              .query_norm = normed_heads ? layer.query_norm.data() : nullptr,
                              .key_norm = normed_heads ? layer.key_norm.data() : nullptr,
                              .eps = static_cast<float>(plan.model().norm_eps()),
                              .pages = Pages(index),
                              .key_scale = scale.key,
                              .value_scale = scale.value},
         stream);
  Launch(cuda::AttentionCall{.pages = Pages(index),
                             .group = group(),
                             .queries = query.data(),
                             .spans = step.spans.data(),
                             .tables = step.tables.data(),
                             .table_stride = step.table_stride,
                             .items = step.items.data(),
                             .item_count = static_cast<int32_t>(step.items.size()),
                             .merges = step.merges.data(),
                             .merge_count = static_cast<int32_t>(step.merges.size()),
                             .scale = Rsqrt(static_cast<float>(plan.model().head_dim())),
                             .key_scale = scale.key,
                             .value_scale = scale.value,
                             .scratch = step.scratch.data(),
                             .out = attended.data()},
         stream);
  return ToBf16(layer.output, attended.data(), step.rows, x.data(), x.data());
}

absl::Status GpuModel::State::Mlp(const GpuLayer& layer, int64_t rows) {
  Norm(layer.mlp_norm, nullptr, rows);
  OCTAVO_RETURN_IF_ERROR(ToBf16(layer.gate, normed.data(), rows, nullptr, gate.data()));
  OCTAVO_RETURN_IF_ERROR(ToBf16(layer.up, normed.data(), rows, nullptr, up.data()));
  Launch(cuda::SiluMultiply{.gate = gate.data(),
                            .up = up.data(),
                            .rows = rows,
                            .columns = layer.gate.channels,
                            .stride = layer.gate.channels,
                            .out = gate.data()},
         stream);
  return ToBf16(layer.down, gate.data(), rows, x.data(), x.data());
}

absl::Status GpuModel::State::Head(const GpuStep& step, Logits* out) {
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
  uint32_t read[2];
  if (!simt::CopyFromDevice(read, flags.data(), sizeof(read), stream)) {
    return MakeError(Reason::kHardware, "the GPU failed");
  }
  if (!IsFiniteAmax(read[0])) return MakeError(Reason::kNonFinite, "an activation overflowed");
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

absl::Status GpuModel::Run(const v1::Step& step, Logits* out) {
  State& s = *state_;
  OCTAVO_ASSIGN_OR_RETURN(const StepRows rows, FlattenStep(step, s.plan));
  if (rows.rows() > s.plan.max_batched_tokens()) {
    return MakeError(Reason::kBadRequest, "a step of more tokens than planned");
  }
  OCTAVO_ASSIGN_OR_RETURN(const GpuStep on_gpu,
                          Upload(step, rows, s.group(), s.plan.model().kv_head_count()));
  if (!simt::ClearDevice(s.flags.data(), 2 * sizeof(uint32_t), s.stream)) {
    return MakeError(Reason::kHardware, "the GPU failed");
  }
  const auto vocab = static_cast<int32_t>(s.plan.model().vocab_size());
  const std::byte* table =
      s.weights.embedding.size() > 0 ? s.weights.embedding.data() : s.weights.head.weights.data();
  Launch(cuda::EmbedTokens{.ids = on_gpu.ids.data(),
                           .rows = on_gpu.rows,
                           .columns = s.hidden(),
                           .table = reinterpret_cast<const uint16_t*>(table),
                           .begin = 0,
                           .end = vocab,
                           .vocabulary = vocab,
                           .out = s.x.data(),
                           .bad = s.flags.data() + 1},
         s.stream);
  for (size_t layer = 0; layer < s.weights.layers.size(); ++layer) {
    OCTAVO_RETURN_IF_ERROR(s.Attention(layer, on_gpu));
    OCTAVO_RETURN_IF_ERROR(s.Mlp(s.weights.layers[layer], on_gpu.rows));
  }
  return s.Head(on_gpu, out);
}

}  // namespace octavo
