// Elementwise and attention kernels with AVX-512.

#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/serving_lanes.h"
#include "kernels/serving_twins.h"

namespace octavo::internal {

const ServingTwins kServingAvx512 = ServingTwinsOf<LanesAvx512>();

}  // namespace octavo::internal
