#pragma once

// The scale of a static input, or of the keys or values of a layer, from what calibration saw. It
// is one F32 division of the range by the largest code, rounded once to the type in which it is
// stored (WeightScale of core/tensor/bare/scale.h). The range:
//
//   absmax      the largest magnitude
//   percentile  the smallest magnitude that `percentile` of all values do not exceed. The
//   percentile
//               counts to nine decimals; 100 is the largest magnitude. Where it is zero while
//               larger values came, the largest magnitude: a range of zero would lose them all
//   mse         of the ranges amax * p, p = 1.00, 0.99 .. 0.01, the one under which the sum of
//               count * (x - value(code) * scale)^2 is smallest; ties go to the larger. All are
//               evaluated, each with its stored scale, codes as serving makes them from static
//               scales: x * F32(1 / scale), clamped and rounded. F64 sums over the bins in
//               ascending order
//
// The same bits on every machine.

#include "absl/status/statusor.h"
#include "core/scheme/compat.h"
#include "core/tensor/bare/scale.h"
#include "core/tensor/dtype.h"
#include "octavo/v1/recipe.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// Points of the MSE grid: point i shrinks the maximum by 1 - i/100.
inline constexpr int kStaticMseGridPoints = 100;

// The scale, exactly representable in `stored` (BF16, F16 or F32); absmax with the formula of a
// compatibility mode. 1 where everything seen was zero (stat.amax_bits() == 0) and the mode has no
// other number for it: worth a line in the report. Errors: kBadData where nothing was seen (no
// rows, and no maximum); kUnsupported for a `stored` that is not
// one of the three; kBadRecipe for a percentile not in (0, 100] or no observer; kCorrupted for
// statistics that fail CheckPointStat (core/scheme/point_stats.h) or lack the counts that the
// observer needs.
absl::StatusOr<float> StaticScale(const v1::PointStat& stat, const v1::Calibration& calibration,
                                  CodeType code, DType stored,
                                  const CompatMode& mode = CompatModeOf(v1::COMPAT_NONE));

}  // namespace octavo
