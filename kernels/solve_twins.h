#pragma once

// The twins that HessianOpsFor and MatmulF64OpsFor choose from: what second-order solving computes
// with.

#include "kernels/hessian.h"
#include "kernels/matmul_f64.h"

namespace octavo::internal {

struct SolveTwins {
  HessianOps hessian;
  MatmulF64Ops matmul_f64;
};

extern const SolveTwins kSolveReference;
#if defined(__x86_64__)
extern const SolveTwins kSolveAvx2;
extern const SolveTwins kSolveAvx512;
#endif

}  // namespace octavo::internal
