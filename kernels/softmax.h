#pragma once

// What the leader does with a row of F32 logits.

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
  // Index of the largest, ties to the lowest.
  int64_t (*argmax)(const float* x, int64_t count);
};

const SoftmaxOps& SoftmaxOpsFor(Isa isa);
std::span<const KernelRow> SoftmaxKernelRows();

}  // namespace octavo
