// A block takes a row: all of its threads bring it in and write the result, one warp makes the sums
// in between, since their order leaves no work for more than 16 threads.

#include "core/tensor/bare/elementary.h"
#include "kernels/cuda/lane_sums.h"
#include "kernels/cuda/norm/norm.h"
#include "kernels/cuda/quantize/row_codes.h"

namespace octavo::cuda {

template <NormKind kNorm, typename Rule>
struct NormKernel {
  static constexpr int kThreads = 256;
  static constexpr int64_t kStep = kThreads * kRun;
  NormRows call;

  // Shared memory: what all threads need to know of the row, then the row.
  struct Known {
    uint32_t maxima[kThreads / simt::kWarp];
    float mean;
    float factor;
  };
  static constexpr int kHeldAt = 64;
  static_assert(sizeof(Known) <= kHeldAt);
  static int SharedBytes(int64_t columns) {
    return kHeldAt + static_cast<int>(RoundUp(columns, kRun)) * 2;
  }

  // By warp 0.
  OCTAVO_DEVICE void MakeSums(const uint16_t* held, Known* known) const {
    const auto value = [held](int64_t j) { return F32FromBf16(held[j]); };
    const auto count = static_cast<float>(call.columns);
    float mean = 0;
    float squares = 0;
    if constexpr (kNorm == NormKind::kRms) {
      squares = WarpLaneSum(call.columns, [&](int64_t j) { return value(j) * value(j); });
    } else {
      mean = WarpLaneSum(call.columns, value) / count;
      squares = WarpLaneSum(call.columns, [&](int64_t j) {
        const float centred = value(j) - mean;
        return centred * centred;
      });
    }
    if (simt::Lane() == 0) {
      known->mean = mean;
      known->factor = Rsqrt(squares / count + call.eps);
    }
  }

  OCTAVO_DEVICE static uint16_t Normed(float x, float weight, float mean, float factor) {
    if constexpr (kNorm == NormKind::kRms) {
      return Bf16FromF32(F32FromBf16(Bf16FromF32(x * factor)) * weight);
    }
    return Bf16FromF32((x - mean) * factor * weight);
  }

  // Writes this thread's runs of the result. Returns the largest magnitude where it is asked for.
  OCTAVO_DEVICE uint32_t Finish(int64_t row, uint16_t* held, float mean, float factor) const {
    uint32_t most = 0;
    for (int64_t base = 0; base < call.columns; base += kStep) {  // warps stay together
      const int64_t at = base + simt::ThreadIndex() * kRun;
      const int count = RunLength(at, call.columns);
      Run run = {};
      if (count > 0) {
        const Run x = LoadRun(held + at, kRun);
        const Run weight = LoadRun(call.weight + at, count);
        for (int i = 0; i < kRun; ++i) {
          const uint16_t normed =
              Normed(F32FromBf16(x.values[i]), F32FromBf16(weight.values[i]), mean, factor);
          run.values[i] = i < count ? normed : uint16_t{0};
        }
        if (call.out != nullptr) StoreRun(call.out + row * call.columns + at, count, run);
      }
      if constexpr (Rule::kOfWholeRow) {
        if (count > 0) StoreRun(held + at, kRun, run);
        most = MergeAmax(most, run.Most());
      } else if constexpr (Rule::kMakesCodes) {
        EmitRun<Rule>(call.codes, row, call.columns, at, run);
      }
    }
    return most;
  }

  OCTAVO_DEVICE void operator()() const {
    auto* known = simt::SharedMemory<Known>();
    auto* held = simt::SharedMemory<uint16_t>() + kHeldAt / 2;
    const int64_t row = simt::Block();
    const int64_t source = call.source_rows == nullptr ? row : call.source_rows[row];
    const uint16_t* x = call.x + source * call.columns;
    for (int64_t at = simt::ThreadIndex() * kRun; at < call.columns; at += kStep) {
      StoreRun(held + at, kRun, LoadRun(x + at, RunLength(at, call.columns)));
    }
    simt::SyncBlock();
    if (simt::Warp() == 0) MakeSums(held, known);
    simt::SyncBlock();
    const uint32_t most = Finish(row, held, known->mean, known->factor);
    if constexpr (Rule::kOfWholeRow) {
      EmitHeldRow<Rule, kThreads>(call.codes, row, call.columns, held, most, known->maxima);
    }
  }
};

namespace {

template <NormKind kNorm, typename Rule>
void LaunchRows(const NormRows& call, simt::Stream stream) {
  using Kernel = NormKernel<kNorm, Rule>;
  simt::Launch(
      Kernel{call},
      {.blocks = static_cast<int>(call.rows), .shared_bytes = Kernel::SharedBytes(call.columns)},
      stream);
}

template <NormKind kNorm>
void LaunchKind(const NormRows& call, simt::Stream stream) {
  WithTokenRule(call.codes, [&](auto rule) { LaunchRows<kNorm, decltype(rule)>(call, stream); });
}

}  // namespace

void Launch(const NormRows& call, simt::Stream stream) {
  if (call.columns == 0) return;
  if (call.kind == NormKind::kRms) {
    LaunchKind<NormKind::kRms>(call, stream);
  } else {
    LaunchKind<NormKind::kLayer>(call, stream);
  }
}

}  // namespace octavo::cuda
