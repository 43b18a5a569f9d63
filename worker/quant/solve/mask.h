#pragma once

// 2:4 patterns: of four adjacent input channels (0..3, 4..7, ..) of a row at least two are zero.

#include <cstdint>

#include "worker/quant/quantizer.h"

namespace octavo {

// Whether a row has the pattern throughout (F32 subnormals count as zero). False where the columns
// are not a multiple of four.
bool IsTwoOfFour(const WeightRows& rows, int64_t row);

// The two of four with the smallest scores, ties to the lower index, as bits 0..3.
// REQUIRES: no NaN.
unsigned TwoSmallest(const double scores[4]);

}  // namespace octavo
