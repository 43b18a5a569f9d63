// Merges splits that blocks of their own have computed.

#include "kernels/cuda/attention/row_sums.h"

namespace octavo::cuda {

// A block merges the splits of 64 rows of one KV head: a warp takes a row at a time.
struct AttentionMergeKernel {
  static constexpr int kThreads = kAttentionThreads;
  AttentionCall call;

  OCTAVO_DEVICE void operator()() const {
    const AttentionMerge merge = call.merges[simt::Block()];
    const AttentionSpan span = call.spans[merge.span];
    const int64_t kv_head = simt::BlockRow();
    const int64_t rows = span.count * call.group;
    for (int local = simt::Warp(); local < kAttentionRows; local += kThreads / simt::kWarp) {
      const int64_t row = merge.row_begin + local;
      if (row >= rows) break;
      const int64_t splits = PositionOf(span, row, call.group) / kAttentionSplit + 1;
      constexpr int kShare = kAttentionHeadMax / simt::kWarp;
      float sums[kShare];
      RowSums merged{};
      for (int64_t split = 0; split < splits; ++split) {
        const float* slot = SlotOf(call, merge.partial + split, kv_head);
        const float* figures = slot + kAttentionRows * kAttentionHeadMax + local * 2;
        const RowSums part{figures[0], figures[1]};
        MergeFactors factors{part.max, 0, 1};
        if (split > 0) factors = FactorsOf(merged.max, part.max);
        merged = {factors.max,
                  split > 0 ? merged.sum * factors.into + part.sum * factors.from : part.sum};
        OCTAVO_UNROLL
        for (int i = 0; i < kShare; ++i) {
          const int column = i * simt::kWarp + simt::Lane();
          // Columns behind the head's end hold nothing, but lie in the slot.
          const float from = slot[local * kAttentionHeadMax + column];
          sums[i] = split > 0 ? sums[i] * factors.into + from * factors.from : from;
        }
      }
      uint16_t* out = call.out + RowOffset(call, span, row, kv_head);
      OCTAVO_UNROLL
      for (int i = 0; i < kShare; ++i) {
        const int column = i * simt::kWarp + simt::Lane();
        if (column < call.pages.head_dim) {
          out[column] = Result(sums[i], merged.sum, call.value_scale);
        }
      }
    }
  }
};

void LaunchMerges(const AttentionCall& call, simt::Stream stream) {
  simt::Launch(AttentionMergeKernel{call},
               {.blocks = call.merge_count, .rows = static_cast<int>(call.pages.kv_heads)}, stream);
}

}  // namespace octavo::cuda
