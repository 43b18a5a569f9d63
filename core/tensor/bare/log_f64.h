#pragma once

// A logarithm for figures, where F32 would not do; elementary.h has what models compute with.

#include "core/tensor/bare/elementary.h"

namespace octavo {

// ln x, relative error under 2^-48. REQUIRES: x positive, normal and finite.
[[gnu::always_inline]] OCTAVO_EVERYWHERE inline double LogF64(double x) {
  return elementary_internal::Log64(x);
}

}  // namespace octavo
