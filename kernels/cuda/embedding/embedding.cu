// A block copies a stretch of a row, 16 bytes a thread.

#include "core/tensor/bare/units.h"
#include "kernels/cuda/embedding/embedding.h"
#include "kernels/cuda/runs.h"

namespace octavo::cuda {

struct EmbedKernel {
  static constexpr int kThreads = 128;
  static constexpr int64_t kStretch = kThreads * kRun;
  EmbedTokens call;

  OCTAVO_DEVICE void operator()() const {
    const auto stretches = static_cast<int>(CeilDiv(call.columns, kStretch));
    const int64_t row = simt::Block() / stretches;
    const int stretch = simt::Block() % stretches;
    const int64_t at = stretch * kStretch + simt::ThreadIndex() * kRun;
    const int32_t id = call.ids[row];
    if ((id < 0 || id >= call.vocabulary) && stretch == 0 && simt::ThreadIndex() == 0) {
      simt::AtomicMax(call.bad, static_cast<uint32_t>(row + 1));
    }
    const int count = RunLength(at, call.columns);
    if (count == 0) return;
    Run run = {};
    if (id >= call.begin && id < call.end && id >= 0 && id < call.vocabulary) {
      run = LoadRun(call.table + int64_t{id - call.begin} * call.columns + at, count);
    }
    StoreRun(call.out + row * call.columns + at, count, run);
  }
};

void Launch(const EmbedTokens& call, simt::Stream stream) {
  const int64_t stretches = CeilDiv(call.columns, EmbedKernel::kStretch);
  simt::Launch(EmbedKernel{call}, {.blocks = static_cast<int>(call.rows * stretches)}, stream);
}

}  // namespace octavo::cuda
