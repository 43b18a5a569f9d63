#include "core/plan/layer_plan.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/tensor/bare/units.h"

namespace octavo {

v1::ServePlan LayerPlan(const v1::ServePlan& whole, int32_t layer) {
  OCTAVO_CHECK(whole.ranks_size() == 1 && layer >= 0 && layer < whole.model().layer_count());
  v1::ServePlan plan = whole;
  plan.mutable_model()->set_layer_count(1);
  plan.clear_cache_scales();
  v1::RankPlan* rank = plan.mutable_ranks(0);
  rank->clear_tensors();
  rank->clear_weight_bytes();
  for (const v1::RankTensor& tensor : whole.ranks(0).tensors()) {
    if (tensor.tensor().layer() != layer) continue;
    v1::RankTensor* own = rank->add_tensors();
    *own = tensor;
    own->mutable_tensor()->set_layer(0);
  }
  rank->set_kv_bytes(whole.ranks(0).kv_bytes() /
                     static_cast<uint64_t>(whole.model().layer_count()));
  return plan;
}

uint64_t LayerWeightBytes(const v1::ServePlan& layer) {
  uint64_t bytes = 0;
  for (const v1::RankTensor& tensor : layer.ranks(0).tensors()) {
    const auto& shape = tensor.tensor().spec().shape();
    const int64_t elements =
        std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
    bytes += static_cast<uint64_t>(elements) * 2;
  }
  return bytes + bytes / 16;  // padding of tiles
}

// The buffers of worker/runner/forward.h, with the quarter by which they grow beyond need.
uint64_t LayerRunBytes(const v1::ServePlan& layer, int64_t rows, int64_t longest) {
  const v1::ModelSpec& model = layer.model();
  const int64_t heads = (model.head_count() + 2 * model.kv_head_count()) * model.head_dim();
  const int64_t inner = model.intermediate_size();
  const int64_t widest = std::max({inner, model.hidden_size(), heads});
  int64_t per_row = 2 * (2 * model.hidden_size() + 2 * heads) + inner * 4 + RoundUp(widest, 32) * 4;
  if (model.expert_count() > 0) per_row += model.hidden_size() * 10 + model.expert_count() * 4;
  const int64_t keys = 4 * RoundUp(longest, kKvBlockTokens) * 64;
  return static_cast<uint64_t>(rows * per_row * 5 / 4 + keys) + (4u << 20);
}

uint64_t TaskBufferBytes(uint64_t memory) {
  const uint64_t budget = memory - std::min(memory, kWorkerBaselineBytes);
  return std::min(budget / 2, kTaskBufferBytesMax);
}

uint64_t CalibratingBytes(uint64_t memory) {
  return memory - std::min(memory, kWorkerBaselineBytes) - TaskBufferBytes(memory);
}

uint64_t MemoryForCalibrating(uint64_t bytes) {
  return kWorkerBaselineBytes + bytes + std::min(bytes, kTaskBufferBytesMax);
}

}  // namespace octavo
