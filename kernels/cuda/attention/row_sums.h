#pragma once

// What the two kernels of attention share: how the sums of splits are merged, and where rows lie.
// For kernels only (simt.h).

#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/float_bits.h"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/simt/simt.h"

namespace octavo::cuda {

inline constexpr int kAttentionThreads = 128;
inline constexpr uint32_t kMinusInfinity = 0xff800000u;

// Maximum and denominator of one row.
struct RowSums {
  float max;
  float sum;
};

// What the two sides of a merge are multiplied by, and the maximum of both.
struct MergeFactors {
  float max;
  float into;
  float from;
};
OCTAVO_DEVICE MergeFactors FactorsOf(float into, float from) {
  const float max = into > from ? into : from;
  return {max, Exp(into - max), Exp(from - max)};
}

// Position of the token that row `row` of a span belongs to.
OCTAVO_DEVICE int32_t PositionOf(const AttentionSpan& span, int64_t row, int64_t group) {
  return span.position + static_cast<int32_t>(row / group);
}

// Where row `row` of a span lies in the queries and in the output.
OCTAVO_DEVICE int64_t RowOffset(const AttentionCall& call, const AttentionSpan& span, int64_t row,
                                int64_t kv_head) {
  const int64_t token = span.first + row / call.group;
  const int64_t head = kv_head * call.group + row % call.group;
  return (token * call.pages.kv_heads * call.group + head) * call.pages.head_dim;
}

// Part of a slot of scratch memory: sums [rows][head max], then maxima and denominators [rows][2].
OCTAVO_DEVICE float* SlotOf(const AttentionCall& call, int64_t slot, int64_t kv_head) {
  return call.scratch + slot * AttentionSlotFloats(call.pages.kv_heads) +
         kv_head * AttentionSlotFloats(1);
}

// One result: + 0 turns -0 into 0, so that a tile in which a row sees nothing leaves no trace.
OCTAVO_DEVICE uint16_t Result(float sum, float denominator, float value_scale) {
  return Bf16FromF32(sum / denominator * value_scale + 0.0f);
}

// Merges the splits of call.merges into results.
void LaunchMerges(const AttentionCall& call, simt::Stream stream);

}  // namespace octavo::cuda
