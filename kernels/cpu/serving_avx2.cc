// Elementwise and attention kernels with AVX2.

#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/serving_lanes.h"
#include "kernels/serving_twins.h"

namespace octavo::internal {

const ServingTwins kServingAvx2 = ServingTwinsOf<LanesAvx2>();

}  // namespace octavo::internal
