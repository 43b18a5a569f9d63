#pragma once

// Units of jobs that go layer after layer: what solve_plan.h and sensitivity_plan.h share. Private
// to coordinator/planner.

#include <cstdint>
#include <map>
#include <set>
#include <tuple>
#include <vector>

#include "coordinator/planner/plan_parts.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

// Threads of a worker that a plan reckons with.
inline constexpr int kPlannedThreads = 16;

// Weights that read the same thing: by (layer, point, expert). A stack is in those of all its
// experts.
using WeightKey = std::tuple<int32_t, v1::ObservedPoint, int32_t>;
using WeightGroups = std::map<WeightKey, std::vector<const PlacedTensor*>>;
using WeightGroup = WeightGroups::value_type;

// Adds a weight where it belongs.
void AddToGroups(const PlacedTensor& tensor, WeightGroups* groups);

// The groups of one layer.
struct LayerGroups {
  LayerGroups(const WeightGroups& groups, int32_t layer)
      : first(groups.lower_bound({layer, v1::OBSERVED_UNSPECIFIED, -1})),
        last(groups.lower_bound({layer + 1, v1::OBSERVED_UNSPECIFIED, -1})) {}
  WeightGroups::const_iterator begin() const { return first; }
  WeightGroups::const_iterator end() const { return last; }

  WeightGroups::const_iterator first, last;
};

// Appends units to a plan whose calibration is set.
class LayerUnits {
 public:
  explicit LayerUnits(v1::Plan* plan) : plan_(plan) {}

  v1::Unit* Add(v1::UnitKind kind, int32_t layer, uint32_t phase);

  // One for every micro-batch; of a UNIT_CALIBRATE, with the points of the layer.
  void AddBatches(v1::UnitKind kind, int32_t layer, uint32_t phase,
                  const std::set<v1::ObservedPoint>& kept,
                  const std::vector<v1::ObservedPoint>& smoothed = {});

  // Point, expert and channels of what a group reads.
  static void SetRead(const WeightGroup& group, v1::HessianSpec* spec);

  // All tensors of a group into a unit of whole ties, the per-tensor scales among them tied.
  void AddPieces(const WeightGroup& group, v1::Unit* unit);

  // Of all samples.
  uint64_t tokens() const {
    const v1::CalibrationPlan& calibration = plan_->calibration();
    return calibration.batches(calibration.batches_size() - 1).token_end();
  }

 private:
  v1::Plan* plan_;
};

}  // namespace octavo
