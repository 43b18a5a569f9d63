#pragma once

// Loops that measure a machine: what its memory and its multipliers can give, in the access
// patterns and instructions of the other kernels. Their results mean nothing and are only there to
// be used.

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

// Address streams that one thread walks at once; fewer do not saturate a core's memory path.
inline constexpr size_t kProbeStreams = 8;
// read_streams takes multiples of this.
inline constexpr size_t kProbeReadMultiple = kProbeStreams * 64;

struct ProbeOps {
  // Reads `bytes` bytes once, as kProbeStreams streams side by side, each over a contiguous eighth.
  // REQUIRES: bytes a multiple of kProbeReadMultiple.
  uint64_t (*read_streams)(const void* data, size_t bytes);

  // `rounds` rounds over enough independent chains of vector FMAs in F32 to keep every unit busy.
  float (*multiply_add)(uint64_t rounds);
  // Floating-point operations (two per FMA and lane) of one round.
  uint64_t flops_per_round;
};

// The loops of `isa`. REQUIRES: IsSupported(isa).
const ProbeOps& ProbeOpsFor(Isa isa);

std::span<const KernelRow> ProbeKernelRows();

}  // namespace octavo
