#include "kernels/quantize.h"

#include "kernels/quantize_activation.h"
#include "kernels/quantize_twins.h"

namespace octavo {

const QuantizeOps& QuantizeOpsFor(Isa isa) {
  if (isa == Isa::kAvx512) return kQuantizeAvx512;
  if (isa == Isa::kAvx2) return kQuantizeAvx2;
  return kQuantizeReference;
}

const QuantizeActivationOps& QuantizeActivationOpsFor(Isa isa) {
  if (isa == Isa::kAvx512) return kQuantizeActivationAvx512;
  if (isa == Isa::kAvx2) return kQuantizeActivationAvx2;
  return kQuantizeActivationReference;
}

std::span<const KernelRow> QuantizeKernelRows() {
  static constexpr KernelRow kRows[] = {
      {"amax", "bf16|f16|f32", Isa::kReference},
      {"amax", "bf16|f16|f32", Isa::kAvx2},
      {"amax", "bf16|f16|f32", Isa::kAvx512},
      {"cast_row", "bf16|f16|f32 -> fp8|int8", Isa::kReference},
      {"cast_row", "bf16|f16|f32 -> fp8|int8", Isa::kAvx2},
      {"cast_row", "bf16|f16|f32 -> fp8|int8", Isa::kAvx512},
      {"grid_errors_row", "bf16|f16|f32 -> fp8|int8", Isa::kReference},
      {"grid_errors_row", "bf16|f16|f32 -> fp8|int8", Isa::kAvx2},
      {"grid_errors_row", "bf16|f16|f32 -> fp8|int8", Isa::kAvx512},
  };
  return kRows;
}

std::span<const KernelRow> QuantizeActivationKernelRows() {
  static constexpr KernelRow kRows[] = {
      {"quantize_activation", "bf16 -> fp8|int8", Isa::kReference},
      {"quantize_activation", "bf16 -> fp8|int8", Isa::kAvx2},
      {"quantize_activation", "bf16 -> fp8|int8", Isa::kAvx512},
  };
  return kRows;
}

}  // namespace octavo
