// Products with AVX-512 F, BW, VL, DQ: machines without VBMI and VNNI.

#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/matmul_lanes.h"
#include "kernels/serving_twins.h"

namespace octavo::internal {

const MatmulOps kMatmulAvx512 = MatmulOpsOf<LanesAvx512>(SumInt8Avx2);

}  // namespace octavo::internal
