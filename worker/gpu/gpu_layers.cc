// The layers of a GpuModel: products, attention, MLP and mixture of experts.

#include "core/base/status.h"
#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/units.h"
#include "kernels/cuda/activation/activation.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/embedding/embedding.h"
#include "kernels/cuda/experts/experts.h"
#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/quantize/quantize.h"
#include "kernels/cuda/rope/rope.h"
#include "kernels/cuda/router/router.h"
#include "worker/gpu/gpu_state.h"

namespace octavo {

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
  if (linear.experts > 0) call.experts = {linear.experts, visit_begin.data(), nullptr};
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
    if (linear.experts > 0 && linear.form == InputForm::kFp8Static) {
      quantize.expert_factors = linear.input_factors.data();
      quantize.expert_offsets = visit_begin.data();
      call.experts.row_scales = linear.input_scales.data();
    }
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
    OCTAVO_RETURN_IF_ERROR(workspace.Resize(needed, "products"));
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

absl::Status GpuModel::State::Attention(size_t index) {
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

absl::Status GpuModel::State::GateUp(const GpuLayer& layer, const uint16_t* input, int64_t rows) {
  OCTAVO_RETURN_IF_ERROR(ToBf16(layer.gate, input, rows, nullptr, gate.data()));
  OCTAVO_RETURN_IF_ERROR(ToBf16(layer.up, input, rows, nullptr, up.data()));
  Launch(cuda::SiluMultiply{.gate = gate.data(),
                            .up = up.data(),
                            .rows = rows,
                            .columns = layer.gate.channels,
                            .stride = layer.gate.channels,
                            .out = gate.data()},
         stream);
  return absl::OkStatus();
}

absl::Status GpuModel::State::Mlp(const GpuLayer& layer, int64_t rows) {
  Norm(layer.mlp_norm, nullptr, rows);
  OCTAVO_RETURN_IF_ERROR(GateUp(layer, normed.data(), rows));
  return ToBf16(layer.down, gate.data(), rows, x.data(), x.data());
}

absl::Status GpuModel::State::Moe(const GpuLayer& layer, int64_t rows) {
  const int64_t experts = plan.model().expert_count();
  const int64_t per_token = plan.model().experts_per_token();
  Norm(layer.mlp_norm, nullptr, rows);
  OCTAVO_RETURN_IF_ERROR(Product(layer.router, normed.data(), rows,
                                 {.out_f32 = router_logits.data(), .stride = experts}));
  Launch(cuda::RouteTokens{.logits = router_logits.data(),
                           .rows = rows,
                           .experts = experts,
                           .per_token = per_token,
                           .normalized = plan.model().normalized_experts(),
                           .chosen = chosen.data(),
                           .weights = visit_weights.data(),
                           .visits = visits.data(),
                           .begin = visit_begin.data(),
                           .visitors = visitors.data(),
                           .bad = flags.data() + 2},
         stream);
  // The rows of visits, expert by expert: what an embedding does with ids.
  Launch(cuda::EmbedTokens{.ids = visitors.data(),
                           .rows = rows * per_token,
                           .columns = hidden(),
                           .table = normed.data(),
                           .begin = 0,
                           .end = static_cast<int32_t>(rows),
                           .vocabulary = static_cast<int32_t>(rows),
                           .out = gathered.data(),
                           .bad = flags.data() + 1},
         stream);
  OCTAVO_RETURN_IF_ERROR(GateUp(layer, gathered.data(), rows * per_token));
  OCTAVO_RETURN_IF_ERROR(Product(layer.down, gate.data(), rows * per_token,
                                 {.out_f32 = visited.data(), .stride = hidden()}));
  Launch(cuda::SumVisits{.visited = visited.data(),
                         .visits = visits.data(),
                         .weights = visit_weights.data(),
                         .rows = rows,
                         .per_token = per_token,
                         .columns = hidden(),
                         .residual = x.data(),
                         .out = x.data()},
         stream);
  return absl::OkStatus();
}

}  // namespace octavo
