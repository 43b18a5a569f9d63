#pragma once

// Where smoothing folds its powers of two: a point of a layer whose channels a norm makes, that
// norm, and everything that reads them. Private to coordinator/planner.

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/planner/plan_parts.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

struct SmoothedPoint {
  const PlacedTensor* norm = nullptr;
  std::vector<const PlacedTensor*> quantized;  // read the norm's output
  std::vector<const PlacedTensor*> kept;       // so do these, a mixture's router among them
};

// By (layer, point).
using SmoothedPoints = std::map<std::pair<int32_t, v1::ObservedPoint>, SmoothedPoint>;

// All points before which there is a norm and after which something is quantized. The norms and
// what is kept are marked in `layout`: their layer's UNIT_SMOOTH writes them. kBadRecipe where
// there is no such point, or for experts stacked in one tensor.
absl::StatusOr<SmoothedPoints> FindSmoothedPoints(const v1::ModelSpec& model, Layout* layout);

// What the columns of the weights that read a point are multiplied by.
v1::Fold FoldOf(int32_t layer, v1::ObservedPoint point);

// Fills pieces, sizes and smooth of a UNIT_SMOOTH.
void FillSmoothUnit(const SmoothedPoint& smoothed, double strength, v1::Unit* unit);

}  // namespace octavo
