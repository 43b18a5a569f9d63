#pragma once

// Which experts each row of a step visits, and with what weight (docs/numerics.md, experts).

#include <cstdint>
#include <vector>

#include "kernels/softmax.h"

namespace octavo {

// A visit is one row at one of its experts. Visits are numbered expert by expert, and by ascending
// row within an expert.
struct ExpertRoute {
  std::vector<int64_t> begin;   // [experts + 1]: expert e's visits are begin[e] .. begin[e + 1)
  std::vector<int64_t> rows;    // [visits]: whose visit it is
  std::vector<int64_t> visits;  // [rows][experts per token], by ascending expert
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
