#pragma once

// The twins behind kernels/probe.h; for kernels/probe.cc and the files that define them only.

#include "kernels/probe.h"

namespace octavo {

// Independent chains: more than latency times issue width of any core we know. (AVX2 has registers
// for fewer.)
inline constexpr int kProbeFmaChains = 16;

extern const ProbeOps kProbeReference;
extern const ProbeOps kProbeAvx2;
extern const ProbeOps kProbeAvx512;

}  // namespace octavo
