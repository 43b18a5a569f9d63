#pragma once

// RMSNorm in Hugging Face's order: the row in F32, mean of squares by lane sum, times
// Rsqrt(mean + eps), rounded to BF16, then times the weight, rounded to BF16.
//
// LayerNorm without bias: mean and then mean of squares of x - mean by lane sums,
// ((x - mean) * Rsqrt(variance + eps)) * weight, all in F32, one rounding to BF16.

#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

struct NormOps {
  // `out` may be `x`.
  void (*rms_norm)(const uint16_t* x, const uint16_t* weight, int64_t count, float eps,
                   uint16_t* out);
  void (*layer_norm)(const uint16_t* x, const uint16_t* weight, int64_t count, float eps,
                     uint16_t* out);
};

const NormOps& NormOpsFor(Isa isa);
std::span<const KernelRow> NormKernelRows();

}  // namespace octavo
