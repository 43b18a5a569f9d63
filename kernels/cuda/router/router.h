#pragma once

// Which experts each token of a step visits on a GPU, with what weight, and the visits in order of
// experts. Formulas, order and bits are those of RouteRows (worker/runner/expert_route.h):
//
//   p = softmax of the row's logits (kernels/softmax.h: exact maximum, Exp, lane sum, one division)
//   the per_token largest p are chosen, ties to the lower expert
//   a weight is p, divided where `normalized` by the sum of the row's, added up by ascending expert
//
// A visit is one row at an expert. Visits are numbered expert by expert, an expert's by ascending
// row, so that a product over gathered rows and its weighted sum have one order. Nothing is
// counted by atomics: two launches give the same.

#include <cstdint>

#include "kernels/cuda/simt/grid.h"

namespace octavo::cuda {

// REQUIRES: 1 <= per_token <= experts, per_token <= kPerTokenMax, experts <= kExpertsMax, fewer
// than 2^31 visits.
struct RouteTokens {
  static constexpr int64_t kExpertsMax = 256;
  static constexpr int64_t kPerTokenMax = 32;
  float* logits = nullptr;  // [rows][experts] F32, become p
  int64_t rows = 0;
  int64_t experts = 0;
  int64_t per_token = 0;
  bool normalized = false;

  int32_t* chosen = nullptr;    // [rows][per_token] experts, ascending
  float* weights = nullptr;     // [rows][per_token], likewise
  int32_t* visits = nullptr;    // [rows][per_token], likewise: the number of the visit
  int32_t* begin = nullptr;     // [experts + 1]: expert e's visits are begin[e] .. begin[e + 1)
  int32_t* visitors = nullptr;  // [rows * per_token]: whose visit it is, a row

  // Becomes at least row + 1 of a row with a logit that is no finite number, else it stays as it
  // is. Such a row's p and weights mean nothing; its experts are some that exist.
  uint32_t* bad = nullptr;
};
void Launch(const RouteTokens& call, simt::Stream stream);

}  // namespace octavo::cuda
