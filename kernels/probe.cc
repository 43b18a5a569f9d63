#include "kernels/probe.h"

#include "kernels/probe_twins.h"

namespace octavo {

const ProbeOps& ProbeOpsFor(Isa isa) {
  if (isa == Isa::kAvx512) return kProbeAvx512;
  if (isa == Isa::kAvx2) return kProbeAvx2;
  return kProbeReference;
}

std::span<const KernelRow> ProbeKernelRows() {
  static constexpr KernelRow kRows[] = {
      {"probe", "memory, f32", Isa::kReference},
      {"probe", "memory, f32", Isa::kAvx2},
      {"probe", "memory, f32", Isa::kAvx512},
  };
  return kRows;
}

}  // namespace octavo
