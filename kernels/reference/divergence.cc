// The specification of divergence.h.

#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/lane_sum.h"
#include "kernels/divergence_twins.h"

namespace octavo::internal {
namespace {

DivergenceSums SumsOf(const float* a, float a_max, const float* b, float b_max, int64_t count) {
  LaneSum<double> p_sum, q_sum, gap_sum;
  for (int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<size_t>(i);
    const double p = Exp(a[i] - a_max);
    p_sum.Add(index, p);
    q_sum.Add(index, Exp(b[i] - b_max));
    gap_sum.Add(index, p * (static_cast<double>(a[i]) - static_cast<double>(b[i])));
  }
  return {p_sum.Fold(), q_sum.Fold(), gap_sum.Fold()};
}

}  // namespace

const DivergenceOps kDivergenceReference = {SumsOf};

}  // namespace octavo::internal
