#include "worker/gpu/gpu_step.h"

#include <algorithm>
#include <vector>

#include "core/base/status.h"
#include "kernels/cuda/kv_pages.h"

namespace octavo {
namespace {

constexpr int64_t kBlocksWanted = 264;  // two for each multiprocessor of an H100

}  // namespace

absl::Status UploadStep(const v1::Step& step, const StepRows& rows, int64_t group, int64_t kv_heads,
                        simt::Stream stream, GpuStep* out) {
  std::vector<cuda::AttentionSpan> spans;
  std::vector<int32_t> positions, slots, logit_rows;
  size_t stride = 1;
  int32_t first = 0;
  for (const v1::StepChunk& chunk : step.chunks()) {
    spans.push_back({first, chunk.tokens_size(), static_cast<int32_t>(chunk.start())});
    first += chunk.tokens_size();
    stride = std::max(stride, static_cast<size_t>(chunk.blocks_size()));
  }
  std::vector<int32_t> tables(spans.size() * stride, 0);
  for (int i = 0; i < step.chunks_size(); ++i) {
    std::copy(step.chunks(i).blocks().begin(), step.chunks(i).blocks().end(),
              tables.begin() + static_cast<int64_t>(static_cast<size_t>(i) * stride));
  }
  for (size_t row = 0; row < rows.positions.size(); ++row) {
    const auto position = static_cast<int32_t>(rows.positions[row]);
    const size_t table = static_cast<size_t>(rows.chunks[row]) * stride;
    const int32_t page = tables[table + static_cast<size_t>(position / cuda::kPageTokens)];
    positions.push_back(position);
    slots.push_back(page * static_cast<int32_t>(cuda::kPageTokens) +
                    position % static_cast<int32_t>(cuda::kPageTokens));
  }
  for (const int64_t row : rows.logits) logit_rows.push_back(static_cast<int32_t>(row));
  const cuda::AttentionPlan plan = cuda::PlanAttention(spans, group, kv_heads, kBlocksWanted);

  out->rows = rows.rows();
  out->logit_count = static_cast<int64_t>(logit_rows.size());
  out->table_stride = static_cast<int64_t>(stride);
  OCTAVO_RETURN_IF_ERROR(out->ids.Assign(rows.ids, "ids", stream));
  OCTAVO_RETURN_IF_ERROR(out->positions.Assign(positions, "positions", stream));
  OCTAVO_RETURN_IF_ERROR(out->slots.Assign(slots, "slots", stream));
  OCTAVO_RETURN_IF_ERROR(out->logit_rows.Assign(logit_rows, "rows of logits", stream));
  OCTAVO_RETURN_IF_ERROR(out->tables.Assign(tables, "block tables", stream));
  OCTAVO_RETURN_IF_ERROR(out->spans.Assign(spans, "spans", stream));
  OCTAVO_RETURN_IF_ERROR(out->items.Assign(plan.items, "items", stream));
  OCTAVO_RETURN_IF_ERROR(out->merges.Assign(plan.merges, "merges", stream));
  return out->scratch.Resize(static_cast<size_t>(plan.slots * cuda::AttentionSlotFloats(kv_heads)),
                             "splits");
}

}  // namespace octavo
