#include "worker/runner/step_plan.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

absl::Status CheckChunk(const v1::StepChunk& chunk, const v1::ServePlan& plan) {
  const auto refuse = [&](const std::string& what) {
    return MakeError(Reason::kBadRequest, fmt::format("sequence {}: {}", chunk.sequence(), what));
  };
  const int64_t end = int64_t{chunk.start()} + chunk.tokens_size();
  if (chunk.tokens_size() == 0) return refuse("an empty chunk");
  if (end > plan.max_model_len()) {
    return refuse(
        fmt::format("position {} exceeds the maximum length of {}", end - 1, plan.max_model_len()));
  }
  if (int64_t{chunk.blocks_size()} * kKvBlockTokens < end) {
    return refuse(fmt::format("{} cache blocks for {} tokens", chunk.blocks_size(), end));
  }
  for (const uint32_t block : chunk.blocks()) {
    if (block >= plan.kv_block_count()) return refuse(fmt::format("no cache block {}", block));
  }
  for (const int32_t id : chunk.tokens()) {
    if (id < 0 || id >= plan.model().vocab_size()) {
      return refuse(
          fmt::format("token {} is outside the vocabulary of {}", id, plan.model().vocab_size()));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<StepRows> FlattenStep(const v1::Step& step, const v1::ServePlan& plan) {
  StepRows rows;
  for (int index = 0; index < step.chunks_size(); ++index) {
    const v1::StepChunk& chunk = step.chunks(index);
    OCTAVO_RETURN_IF_ERROR(CheckChunk(chunk, plan));
    for (int i = 0; i < chunk.tokens_size(); ++i) {
      const bool last = i + 1 == chunk.tokens_size();
      if (chunk.logits_all() || (chunk.logits_last() && last)) rows.logits.push_back(rows.rows());
      if (chunk.residuals()) rows.residuals.push_back(rows.rows());
      rows.ids.push_back(chunk.tokens(i));
      rows.positions.push_back(int64_t{chunk.start()} + i);
      rows.chunks.push_back(index);
    }
    rows.context_max = std::max(rows.context_max, int64_t{chunk.start()} + chunk.tokens_size());
  }
  return rows;
}

}  // namespace octavo
