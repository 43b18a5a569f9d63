#pragma once

// How far one distribution over the vocabulary is from another, both given by F32 logits. Nothing
// that serves depends on it: it measures what quantizing costs (docs/numerics.md).

#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

// F64 lane sums over two rows a, b around their maxima: p_j = Exp(a_j - a_max), q_j likewise of b.
struct DivergenceSums {
  double p = 0;
  double q = 0;
  double p_gap = 0;  // of p_j * (a_j - b_j), in F64
};

struct DivergenceOps {
  // REQUIRES: finite logits; the maxima are theirs; count >= 1.
  DivergenceSums (*sums)(const float* a, float a_max, const float* b, float b_max, int64_t count);
};

// KL(softmax(a) || softmax(b)) in nats: 0 for equal rows, else exact to about 1e-7 absolute (which
// is how far below 0 it may come).
double DivergenceOf(const DivergenceSums& sums, float a_max, float b_max);

// The kernels of `isa`; the same bits for all. Callers hold an FpEnv. REQUIRES: IsSupported(isa).
const DivergenceOps& DivergenceOpsFor(Isa isa);
std::span<const KernelRow> DivergenceKernelRows();

}  // namespace octavo
