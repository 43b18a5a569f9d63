// A block takes a stretch of a row, a thread a run of 8 columns.

#include "core/tensor/bare/units.h"
#include "kernels/cuda/experts/experts.h"
#include "kernels/cuda/runs.h"

namespace octavo::cuda {

struct SumVisitsKernel {
  static constexpr int kThreads = 128;
  static constexpr int64_t kStretch = kThreads * kRun;
  SumVisits call;

  OCTAVO_DEVICE void operator()() const {
    const auto stretches = static_cast<int>(CeilDiv(call.columns, kStretch));
    const int64_t row = simt::Block() / stretches;
    const int64_t at = simt::Block() % stretches * kStretch + simt::ThreadIndex() * kRun;
    const int count = RunLength(at, call.columns);
    if (count == 0) return;
    float sums[kRun] = {};
    for (int64_t i = row * call.per_token; i < (row + 1) * call.per_token; ++i) {
      const float* from = call.visited + int64_t{call.visits[i]} * call.columns + at;
      const float weight = call.weights[i];
      OCTAVO_UNROLL
      for (int k = 0; k < kRun; ++k) {
        if (k < count) sums[k] = __builtin_fmaf(weight, from[k], sums[k]);
      }
    }
    Run run = LoadRun(call.residual + row * call.columns + at, count);
    OCTAVO_UNROLL
    for (int k = 0; k < kRun; ++k) {
      run.values[k] = Bf16FromF32(simt::AddRounded(sums[k], F32FromBf16(run.values[k])));
    }
    StoreRun(call.out + row * call.columns + at, count, run);
  }
};

void Launch(const SumVisits& call, simt::Stream stream) {
  const int64_t stretches = CeilDiv(call.columns, SumVisitsKernel::kStretch);
  simt::Launch(SumVisitsKernel{call}, {.blocks = static_cast<int>(call.rows * stretches)}, stream);
}

}  // namespace octavo::cuda
