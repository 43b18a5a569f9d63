#pragma once

// The slow part of loading a model: reading its headers and laying it over ranks.

#include <string>

#include "absl/status/statusor.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

struct GroupPlan {
  v1::ServePlan plan;
  std::string format;  // "bf16", "fp8-channel, dynamic inputs": for people
};

// `rank_memory_bytes`: the budget of the smallest worker of the group. Errors of OpenCheckpoint,
// ReadQuantization and PlanServing.
absl::StatusOr<GroupPlan> PlanGroup(const std::string& model_dir, uint32_t rank_count,
                                    int64_t max_model_len, uint64_t rank_memory_bytes);

}  // namespace octavo
