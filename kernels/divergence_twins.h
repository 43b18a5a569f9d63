#pragma once

// The twins that DivergenceOpsFor chooses from.

#include "kernels/divergence.h"

namespace octavo::internal {

extern const DivergenceOps kDivergenceReference;
#if defined(__x86_64__)
extern const DivergenceOps kDivergenceAvx2;
extern const DivergenceOps kDivergenceAvx512;
#endif

}  // namespace octavo::internal
