#pragma once

// What is done with a row of F32 logits: by the leader with the model's, by every rank with a
// router's.

#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

// The denominator of a row's softmax, around its largest logit.
struct LogSum {
  float max = 0;  // NaN if any logit is a NaN or an infinity; `log` is then one too
  float log = 0;  // Log of the lane sum of Exp(x_j - max)
  // Log probability of a logit of the row.
  float LogProb(float logit) const { return (logit - max) - log; }
};

struct SoftmaxOps {
  LogSum (*log_sum)(const float* x, int64_t count);  // count >= 1
  // out[j] = Exp(x_j - m) / the lane sum of Exp(x_j - m), m = the largest x. `out` may be `x`.
  // REQUIRES finite x, count >= 1.
  void (*softmax)(const float* x, int64_t count, float* out);
  // Index of the largest, ties to the lowest.
  int64_t (*argmax)(const float* x, int64_t count);
};

const SoftmaxOps& SoftmaxOpsFor(Isa isa);
std::span<const KernelRow> SoftmaxKernelRows();

}  // namespace octavo
