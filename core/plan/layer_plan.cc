#include "core/plan/layer_plan.h"

#include "core/base/status.h"

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

}  // namespace octavo
