#pragma once

// Which experts each row of a step visits, and with what weight (docs/numerics.md, experts).

#include <cstdint>
#include <vector>

#include "kernels/softmax.h"

namespace octavo {

// A visit is one row at an expert. Visits are numbered expert by expert; those that the router asks
// for come first and by ascending row, then those that are only observed (expert_coverage.h).
struct ExpertRoute {
  std::vector<int64_t> begin;  // [experts + 1]: expert e's visits are begin[e] .. begin[e + 1)
  std::vector<int64_t>
      routed_end;               // [experts]: the routed ones end here; without others, begin[e + 1]
  std::vector<int64_t> rows;    // [visits]: whose visit it is
  std::vector<int64_t> visits;  // [rows][experts per token], by ascending expert; routed ones
  std::vector<float> weights;   // [rows][experts per token], likewise

  int64_t visit_count() const { return static_cast<int64_t>(rows.size()); }
};

// The `count` largest of p[0 .. experts), ties to the lower index; `chosen` receives their indices,
// ascending. REQUIRES 1 <= count <= experts.
void ChooseLargest(const float* p, int64_t experts, int64_t count, int32_t* chosen);

// `logits` [rows][experts] F32, finite; overwritten by their softmax. A row's weights are the
// softmax of its experts; `normalized`: divided by their sum, added up by ascending expert.
ExpertRoute RouteRows(const SoftmaxOps& softmax, float* logits, int64_t rows, int64_t experts,
                      int64_t per_row, bool normalized);

}  // namespace octavo
