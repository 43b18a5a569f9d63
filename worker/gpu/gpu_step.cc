#include "worker/gpu/gpu_step.h"

#include <algorithm>
#include <vector>

#include "core/base/status.h"
#include "kernels/cuda/kv_pages.h"

namespace octavo {
namespace {

constexpr int64_t kBlocksWanted = 264;  // two for each multiprocessor of an H100

}  // namespace

absl::StatusOr<GpuStep> UploadStep(const v1::Step& step, const StepRows& rows, int64_t group,
                                   int64_t kv_heads) {
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

  GpuStep out;
  out.rows = rows.rows();
  out.logit_count = static_cast<int64_t>(logit_rows.size());
  out.table_stride = static_cast<int64_t>(stride);
  OCTAVO_ASSIGN_OR_RETURN(out.ids, DeviceArray<int32_t>::Of(rows.ids, "ids"));
  OCTAVO_ASSIGN_OR_RETURN(out.positions, DeviceArray<int32_t>::Of(positions, "positions"));
  OCTAVO_ASSIGN_OR_RETURN(out.slots, DeviceArray<int32_t>::Of(slots, "slots"));
  OCTAVO_ASSIGN_OR_RETURN(out.logit_rows, DeviceArray<int32_t>::Of(logit_rows, "rows of logits"));
  OCTAVO_ASSIGN_OR_RETURN(out.tables, DeviceArray<int32_t>::Of(tables, "block tables"));
  OCTAVO_ASSIGN_OR_RETURN(out.spans, DeviceArray<cuda::AttentionSpan>::Of(spans, "spans"));
  OCTAVO_ASSIGN_OR_RETURN(out.items, DeviceArray<cuda::AttentionItem>::Of(plan.items, "items"));
  OCTAVO_ASSIGN_OR_RETURN(out.merges, DeviceArray<cuda::AttentionMerge>::Of(plan.merges, "merges"));
  OCTAVO_ASSIGN_OR_RETURN(
      out.scratch,
      DeviceArray<float>::Create(
          static_cast<size_t>(plan.slots * cuda::AttentionSlotFloats(kv_heads)), "splits"));
  return out;
}

}  // namespace octavo
