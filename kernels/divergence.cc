#include "kernels/divergence.h"

#include "core/tensor/bare/log_f64.h"
#include "kernels/divergence_twins.h"

namespace octavo {

double DivergenceOf(const DivergenceSums& sums, float a_max, float b_max) {
  const double a_log = static_cast<double>(a_max) + LogF64(sums.p);
  const double b_log = static_cast<double>(b_max) + LogF64(sums.q);
  return sums.p_gap / sums.p + (b_log - a_log);
}

const DivergenceOps& DivergenceOpsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return internal::kDivergenceAvx512;
  if (isa == Isa::kAvx2) return internal::kDivergenceAvx2;
#endif
  return internal::kDivergenceReference;
}

std::span<const KernelRow> DivergenceKernelRows() {
  static constexpr KernelRow kRows[] = {{"divergence", "f32", Isa::kReference},
                                        {"divergence", "f32", Isa::kAvx2},
                                        {"divergence", "f32", Isa::kAvx512}};
  return kRows;
}

}  // namespace octavo
