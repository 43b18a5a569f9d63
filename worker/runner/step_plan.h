#pragma once

// A checked step, flattened to one row per token.

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "octavo/v1/engine.pb.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

struct StepRows {
  std::vector<int32_t> ids;        // [rows]
  std::vector<int64_t> positions;  // [rows]
  std::vector<int> chunks;         // [rows]: index into the step's chunks
  std::vector<int64_t> logits;     // rows whose logits are wanted, ascending
  std::vector<int64_t> residuals;  // rows whose residual streams are wanted, ascending
  int64_t context_max = 0;         // largest position + 1
  int64_t rows() const { return static_cast<int64_t>(ids.size()); }
};

// kBadRequest where a chunk names a token outside the vocabulary, a position beyond max_model_len,
// or a block table that is too short or out of range.
absl::StatusOr<StepRows> FlattenStep(const v1::Step& step, const v1::ServePlan& plan);

}  // namespace octavo
