// Every thread takes runs of 8 columns. Where codes have one dynamic scale per row, a block takes
// the row and holds it; else a block takes a stretch of a row.

#include "core/tensor/bare/elementary.h"
#include "kernels/cuda/activation/activation.h"
#include "kernels/cuda/clip.h"
#include "kernels/cuda/quantize/row_codes.h"

namespace octavo::cuda {

// A run of silu(gate) * up, zeros behind its end.
OCTAVO_DEVICE Run SiluRun(const SiluMultiply& call, int64_t row, int64_t at) {
  const int count = RunLength(at, call.columns);
  const Run gate = LoadRun(call.gate + row * call.stride + at, count);
  const Run up = LoadRun(call.up + row * call.stride + at, count);
  Run out;
  for (int i = 0; i < kRun; ++i) {
    const float g = F32FromBf16(gate.values[i]);
    const float silu = F32FromBf16(Bf16FromF32(g / (1.0f + Exp(-g))));
    out.values[i] = Bf16FromF32(silu * F32FromBf16(up.values[i]));  // of zeros: zero
  }
  if (call.out != nullptr && count > 0) StoreRun(call.out + row * call.columns + at, count, out);
  return out;
}

template <typename Rule>
struct SiluStretchKernel {
  static constexpr int kThreads = 128;
  static constexpr int64_t kStretch = kThreads * kRun;
  SiluMultiply call;

  OCTAVO_DEVICE void operator()() const {
    const auto stretches = static_cast<int>(CeilDiv(call.columns, kStretch));
    const int64_t row = simt::Block() / stretches;
    const int64_t at = simt::Block() % stretches * kStretch + simt::ThreadIndex() * kRun;
    const Run out = SiluRun(call, row, at);
    if constexpr (Rule::kMakesCodes) EmitRun<Rule>(call.codes, row, call.columns, at, out);
  }
};

template <typename Rule>
struct SiluRowKernel {
  static constexpr int kThreads = 512;
  static constexpr int kHeldAt = kThreads / simt::kWarp * 4;  // behind the warps' maxima
  SiluMultiply call;

  OCTAVO_DEVICE void operator()() const {
    auto* maxima = simt::SharedMemory<uint32_t>();
    auto* held = simt::SharedMemory<uint16_t>() + kHeldAt / 2;
    const int64_t row = simt::Block();
    uint32_t most = 0;
    for (int64_t at = simt::ThreadIndex() * kRun; at < call.columns; at += kThreads * kRun) {
      const Run out = SiluRun(call, row, at);
      StoreRun(held + at, kRun, out);
      most = MergeAmax(most, out.Most());
    }
    EmitHeldRow<Rule, kThreads>(call.codes, row, call.columns, held, most, maxima);
  }
};

struct ClipKernel {
  static constexpr int kThreads = 128;
  static constexpr int64_t kStretch = kThreads * kRun;
  Clip call;
  ClipRule rule;

  OCTAVO_DEVICE void operator()() const {
    const auto stretches = static_cast<int>(CeilDiv(call.columns, kStretch));
    const int64_t row = simt::Block() / stretches;
    const int64_t at = simt::Block() % stretches * kStretch + simt::ThreadIndex() * kRun;
    const int count = RunLength(at, call.columns);
    if (count == 0) return;
    uint16_t* x = call.x + row * call.stride + at;
    Run run = LoadRun(x, count);
    for (int i = 0; i < kRun; ++i) run.values[i] = rule.Clipped(run.values[i]);
    StoreRun(x, count, run);
  }
};

void Launch(const SiluMultiply& call, simt::Stream stream) {
  WithTokenRule(call.codes, [&](auto rule) {
    using Rule = decltype(rule);
    if constexpr (Rule::kOfWholeRow) {
      using Kernel = SiluRowKernel<Rule>;
      if (call.columns == 0) return;
      simt::Launch(
          Kernel{call},
          {.blocks = static_cast<int>(call.rows),
           .shared_bytes = Kernel::kHeldAt + static_cast<int>(RoundUp(call.columns, kRun)) * 2},
          stream);
    } else {
      using Kernel = SiluStretchKernel<Rule>;
      const int64_t stretches = CeilDiv(call.columns, Kernel::kStretch);
      simt::Launch(Kernel{call}, {.blocks = static_cast<int>(call.rows * stretches)}, stream);
    }
  });
}

void Launch(const Clip& call, simt::Stream stream) {
  const int64_t stretches = CeilDiv(call.columns, ClipKernel::kStretch);
  simt::Launch(ClipKernel{call, ClipRule::Of(call.limit)},
               {.blocks = static_cast<int>(call.rows * stretches)}, stream);
}

}  // namespace octavo::cuda
