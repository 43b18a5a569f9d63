#pragma once

// The Hessian of an expert with few tokens, shrunk towards the mean of its layer's experts:
//
//   H' = T * (lambda * H / T + (1 - lambda) * M / T_M),  lambda = T / (4 * channels)
//
// H of the expert's T tokens, M of T_M rows that all experts of the layer read (docs/numerics.md).
// A Hessian of fewer tokens than channels is singular, and one of a few times as many still takes
// chance for correlation: solved under it alone, weights make up for errors along directions that
// other tokens do not share.

#include <cstdint>

#include "core/tensor/bare/units.h"

namespace octavo {

struct Shrinkage {
  double own = 1;   // lambda
  double mean = 0;  // (1 - lambda) * T / T_M: the factor of M

  // The share of the mean, 1 - lambda.
  double share() const { return 1 - own; }
};

// Nothing is shrunk that has 4 * channels tokens or more. REQUIRES: mean_tokens > 0 if it has less.
inline Shrinkage ShrinkageOf(int64_t channels, int64_t tokens, int64_t mean_tokens) {
  const int64_t enough = ExpertEnoughTokens(channels);
  if (tokens >= enough) return {};
  const double own = static_cast<double>(tokens) / static_cast<double>(enough);
  return {own, (1 - own) * static_cast<double>(tokens) / static_cast<double>(mean_tokens)};
}

// Elements of H become those of H': both products and their sum in F64, then one rounding to F32.
inline void ShrinkRow(const Shrinkage& shrinkage, const float* mean, int64_t count, float* row) {
  for (int64_t i = 0; i < count; ++i) {
    row[i] = static_cast<float>(shrinkage.own * static_cast<double>(row[i]) +
                                shrinkage.mean * static_cast<double>(mean[i]));
  }
}

}  // namespace octavo
