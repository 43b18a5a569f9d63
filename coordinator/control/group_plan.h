#pragma once

// The slow part of loading a model: reading its headers and laying it over ranks.

#include <string>

#include "absl/status/statusor.h"
#include "core/plan/serve_plan.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

struct GroupPlan {
  v1::ServePlan plan;
  std::string format;  // "bf16", "fp8-channel, dynamic inputs": for people
};

// Errors of OpenCheckpoint, ReadQuantization and PlanServing.
absl::StatusOr<GroupPlan> PlanGroup(const std::string& model_dir, const ServeOptions& options);

}  // namespace octavo
