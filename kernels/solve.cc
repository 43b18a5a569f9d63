#include "kernels/solve_twins.h"

namespace octavo {
namespace {

const internal::SolveTwins& TwinsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) return internal::kSolveAvx512;
  if (isa == Isa::kAvx2) return internal::kSolveAvx2;
#endif
  return internal::kSolveReference;
}

}  // namespace

const HessianOps& HessianOpsFor(Isa isa) { return TwinsFor(isa).hessian; }

const MatmulF64Ops& MatmulF64OpsFor(Isa isa) { return TwinsFor(isa).matmul_f64; }

std::span<const KernelRow> HessianKernelRows() {
  static constexpr KernelRow kRows[] = {{"hessian", "bf16 x bf16 -> f32", Isa::kReference},
                                        {"hessian", "bf16 x bf16 -> f32", Isa::kAvx2},
                                        {"hessian", "bf16 x bf16 -> f32", Isa::kAvx512}};
  return kRows;
}

std::span<const KernelRow> MatmulF64KernelRows() {
  static constexpr KernelRow kRows[] = {{"matmul_f64", "f64 - f64 x f64", Isa::kReference},
                                        {"matmul_f64", "f64 - f64 x f64", Isa::kAvx2},
                                        {"matmul_f64", "f64 - f64 x f64", Isa::kAvx512}};
  return kRows;
}

}  // namespace octavo
