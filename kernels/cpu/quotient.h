#pragma once

// For which scales a 16-bit source is divided by a multiplication and one correction, with the
// exact quotient; codes_avx512.h says why.

#include "core/tensor/bare/scale.h"

namespace octavo {

template <SourceType T>
[[gnu::always_inline]] inline bool QuotientWithoutDivision(float scale) {
  return T != SourceType::kF32 && scale >= 0x1p-60f && scale <= 0x1p60f;
}

// Where quotients down to 2^-50 must be exact, which the error measure of the MSE grid sees.
template <SourceType T>
[[gnu::always_inline]] inline bool GridQuotientWithoutDivision(float scale) {
  return T != SourceType::kF32 && scale >= 0x1p-28f && scale <= 0x1p60f;
}

}  // namespace octavo
