#include <algorithm>

#include "core/tensor/bare/units.h"
#include "kernels/cuda/attention/attention.h"

namespace octavo::cuda {

AttentionPlan PlanAttention(std::span<const AttentionSpan> spans, int64_t group, int64_t kv_heads,
                            int64_t blocks_wanted) {
  AttentionPlan plan;
  int64_t whole = 0;
  for (const AttentionSpan& span : spans) {
    whole += CeilDiv(span.count * group, kAttentionRows) * kv_heads;
  }
  const bool split = whole < blocks_wanted;
  for (size_t i = 0; i < spans.size(); ++i) {
    const int64_t rows = spans[i].count * group;
    for (int64_t begin = 0; begin < rows; begin += kAttentionRows) {
      const int64_t last_row = std::min(begin + kAttentionRows, rows) - 1;
      const int64_t last_key = spans[i].position + last_row / group;
      AttentionItem item{.span = static_cast<int32_t>(i),
                         .row_begin = static_cast<int32_t>(begin),
                         .split_begin = 0,
                         .split_end = static_cast<int32_t>(last_key / kAttentionSplit + 1)};
      if (!split || item.split_end == 1) {
        plan.items.push_back(item);
        continue;
      }
      const int32_t splits = item.split_end;
      plan.merges.push_back({item.span, item.row_begin, splits, static_cast<int32_t>(plan.slots)});
      for (int32_t s = 0; s < splits; ++s) {
        item.split_begin = s;
        item.split_end = s + 1;
        item.partial = static_cast<int32_t>(plan.slots++);
        plan.items.push_back(item);
      }
    }
  }
  return plan;
}

}  // namespace octavo::cuda
