#pragma once

// divergence.h over 16 virtual lanes. Included by one file per instruction set, which picks the
// lanes `L`; everything is local to that file.

#include <cstdint>

#include "core/tensor/bare/lane_sum.h"
#include "kernels/divergence_twins.h"

namespace octavo::internal {
namespace {

template <class L>
DivergenceSums SumsOf(const float* a, float a_max, const float* b, float b_max, int64_t count) {
  const typename L::F a_wide = L::Set(a_max);
  const typename L::F b_wide = L::Set(b_max);
  double p_sums[kLanes] = {};
  double q_sums[kLanes] = {};
  double gap_sums[kLanes] = {};
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t used = count - i < 16 ? count - i : 16;
    const typename L::F x = used == 16 ? L::Load(a + i) : L::LoadPart(a + i, used, a_max);
    const typename L::F y = used == 16 ? L::Load(b + i) : L::LoadPart(b + i, used, b_max);
    typename L::F p = L::Exp(L::Sub(x, a_wide));
    typename L::F q = L::Exp(L::Sub(y, b_wide));
    if (used < 16) {
      p = L::KeepFirst(p, used);
      q = L::KeepFirst(q, used);
    }
    float xs[kLanes], ys[kLanes], ps[kLanes], qs[kLanes];
    L::Store(xs, x);
    L::Store(ys, y);
    L::Store(ps, p);
    L::Store(qs, q);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const double wide = ps[lane];
      p_sums[lane] += wide;
      q_sums[lane] += static_cast<double>(qs[lane]);
      gap_sums[lane] += wide * (static_cast<double>(xs[lane]) - static_cast<double>(ys[lane]));
    }
  }
  return {FoldLanes(p_sums), FoldLanes(q_sums), FoldLanes(gap_sums)};
}

}  // namespace
}  // namespace octavo::internal
