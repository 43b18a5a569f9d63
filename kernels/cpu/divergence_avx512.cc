#include "kernels/cpu/divergence_lanes.h"
#include "kernels/cpu/lanes_avx512.h"

namespace octavo::internal {

const DivergenceOps kDivergenceAvx512 = {SumsOf<LanesAvx512>};

}  // namespace octavo::internal
