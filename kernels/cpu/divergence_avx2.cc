#include "kernels/cpu/divergence_lanes.h"
#include "kernels/cpu/lanes_avx2.h"

namespace octavo::internal {

const DivergenceOps kDivergenceAvx2 = {SumsOf<LanesAvx2>};

}  // namespace octavo::internal
