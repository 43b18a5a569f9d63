#pragma once

// Elementwise functions of BF16 rows. The gated MLP's activation: s = F32(g) / (1 + Exp(-g))
// rounded to BF16, then times up, rounded.

#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

struct ActivationOps {
  // `out` may be `gate` or `up`.
  void (*silu_multiply)(const uint16_t* gate, const uint16_t* up, int64_t count, uint16_t* out);
  // x[i] beyond +-limit becomes BF16(+-limit). REQUIRES limit > 0.
  void (*clip)(uint16_t* x, int64_t count, float limit);
};

const ActivationOps& ActivationOpsFor(Isa isa);
std::span<const KernelRow> ActivationKernelRows();

}  // namespace octavo
