#pragma once

// The gated MLP's activation: s = F32(g) / (1 + Exp(-g)) rounded to BF16, then times up, rounded.

#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

struct ActivationOps {
  // `out` may be `gate` or `up`.
  void (*silu_multiply)(const uint16_t* gate, const uint16_t* up, int64_t count, uint16_t* out);
};

const ActivationOps& ActivationOpsFor(Isa isa);
std::span<const KernelRow> ActivationKernelRows();

}  // namespace octavo
