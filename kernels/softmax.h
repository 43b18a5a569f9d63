#pragma once

// What the leader does with a row of F32 logits.

#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

struct SoftmaxOps {
  // m + Log(lane sum of Exp(x_j - m)), m = the largest x. A log probability is x_j - this.
  float (*log_sum_exp)(const float* x, int64_t count);
  // Index of the largest, ties to the lowest.
  int64_t (*argmax)(const float* x, int64_t count);
};

const SoftmaxOps& SoftmaxOpsFor(Isa isa);
std::span<const KernelRow> SoftmaxKernelRows();

}  // namespace octavo
