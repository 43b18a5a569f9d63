#include "coordinator/planner/sensitivity_plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "coordinator/planner/calibration_plan.h"
#include "coordinator/planner/plan_parts.h"
#include "coordinator/planner/solve_plan.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/dialect.h"
#include "core/plan/solve_memory.h"
#include "core/scheme/recipe.h"
#include "core/tensor/bare/units.h"

namespace octavo {
namespace {

constexpr uint32_t kSensePhases = 2;
// Threads of a worker that a plan reckons with.
constexpr int kSenseThreads = 16;

// Weights that read the same thing: by (layer, point, expert).
using SenseKey = std::tuple<int32_t, v1::ObservedPoint, int32_t>;
using SenseGroups = std::map<SenseKey, std::vector<const PlacedTensor*>>;

absl::StatusOr<SenseGroups> SenseGroupsOf(const Layout& layout) {
  SenseGroups groups;
  for (const PlacedTensor& tensor : layout.tensors) {
    if (tensor.scheme.scheme == nullptr || tensor.source_bytes() == 0) continue;
    const v1::ModelTensor& source = *tensor.source;
    if (IsStack(source.role())) {
      return MakeError(Reason::kUnsupported, "experts stacked in one tensor cannot be measured yet",
                       {.file = source.spec().file(), .tensor = source.spec().name()},
                       "Let the recipe keep them");
    }
    groups[{source.layer(), InputPointOf(source.role()), source.expert()}].push_back(&tensor);
  }
  if (groups.empty()) {
    return MakeError(Reason::kUnsupported, "the recipe quantizes nothing of this model");
  }
  return groups;
}

class SenseCutter {
 public:
  SenseCutter(const SenseGroups& groups, v1::Plan* plan) : groups_(groups), plan_(plan) {
    const v1::CalibrationPlan& calibration = plan->calibration();
    tokens_ = calibration.batches(calibration.batches_size() - 1).token_end();
  }

  void AddLayer(int32_t layer) {
    const auto phase = static_cast<uint32_t>(layer) * kSensePhases;
    const auto begin = groups_.lower_bound({layer, v1::OBSERVED_UNSPECIFIED, -1});
    const auto end = groups_.lower_bound({layer + 1, v1::OBSERVED_UNSPECIFIED, -1});
    std::set<v1::ObservedPoint> points;
    for (auto group = begin; group != end; ++group) points.insert(std::get<1>(group->first));
    AddBatches(layer, phase, points);
    for (auto group = begin; group != end; ++group) {
      if (std::get<2>(group->first) >= 0) {
        AddSense(*group, phase + 1, 0, 0);
        continue;
      }
      constexpr auto kPart = static_cast<uint64_t>(kSenseTokens);
      for (uint64_t token = 0; token < tokens_; token += kPart) {
        AddSense(*group, phase + 1, token, std::min(tokens_, token + kPart));
      }
    }
  }

 private:
  v1::Unit* Add(v1::UnitKind kind, int32_t layer, uint32_t phase) {
    v1::Unit* unit = plan_->add_units();
    unit->set_id(static_cast<uint32_t>(plan_->units_size() - 1));
    unit->set_kind(kind);
    unit->set_phase(phase);
    unit->set_layer(static_cast<uint32_t>(layer));
    return unit;
  }

  void AddBatches(int32_t layer, uint32_t phase, const std::set<v1::ObservedPoint>& points) {
    const auto row_bytes = static_cast<uint64_t>(plan_->model().hidden_size()) * 2;
    for (int batch = 0; batch < plan_->calibration().batches_size(); ++batch) {
      const v1::MicroBatch& cut = plan_->calibration().batches(batch);
      v1::Unit* unit = Add(v1::UNIT_CALIBRATE, layer, phase);
      unit->set_batch(static_cast<uint32_t>(batch));
      unit->set_source_bytes((cut.token_end() - cut.token_begin()) * row_bytes);
      unit->mutable_kept_points()->Add(points.begin(), points.end());
    }
  }

  void AddSense(const SenseGroups::value_type& group, uint32_t phase, uint64_t begin,
                uint64_t end) {
    const auto& [layer, point, expert] = group.first;
    v1::Unit* unit = Add(v1::UNIT_SENSE, layer, phase);
    v1::HessianSpec& spec = *unit->mutable_hessian();
    spec.set_point(point);
    spec.set_expert(expert);
    spec.set_channels(group.second.front()->source->spec().shape(1));
    spec.set_token_begin(begin);
    spec.set_token_end(end);
    const v1::Scheme& scheme = *group.second.front()->scheme.scheme;
    // The scale of a static input is only known when all tokens were seen.
    if (scheme.has_input() && scheme.input().dynamic()) *spec.mutable_input() = scheme.input();
    unit->set_whole_ties(true);
    bool tied = false;
    for (const PlacedTensor* tensor : group.second) {
      v1::Piece& piece = *unit->add_pieces();
      piece = WholePiece(*tensor);
      piece.clear_weight_out();
      piece.clear_scale_out();
      unit->set_source_bytes(unit->source_bytes() + tensor->source_bytes());
      if (piece.format().granularity() != v1::PER_TENSOR) continue;
      piece.set_tie_group(static_cast<int32_t>(plan_->tie_group_count()));
      tied = true;
    }
    if (tied) plan_->set_tie_group_count(plan_->tie_group_count() + 1);
    plan_->set_source_bytes(plan_->source_bytes() + unit->source_bytes());
  }

  const SenseGroups& groups_;
  v1::Plan* plan_;
  uint64_t tokens_ = 0;
};

absl::Status CheckMeasurable(const v1::Recipe& recipe) {
  if (recipe.has_smooth()) {
    return MakeError(Reason::kUnsupported, "what smoothing changes is not measured", {},
                     "Name a recipe without smooth");
  }
  const bool prunes = std::any_of(
      recipe.rules().begin(), recipe.rules().end(),
      [](const v1::Rule& rule) { return rule.solver().kind() == v1::SOLVER_SPARSEGPT; });
  if (!prunes) return absl::OkStatus();
  return MakeError(Reason::kUnsupported,
                   "the sensitivity to dropped weights is not measured, only that to rounding", {},
                   "Name a recipe without sparsegpt");
}

}  // namespace

absl::StatusOr<v1::Plan> BuildSensitivityPlan(const Checkpoint& checkpoint,
                                              const v1::Recipe& recipe,
                                              const v1::Calibration& measure,
                                              const v1::CalibrationSet& calibration) {
  if (checkpoint.quantized) {
    return MakeError(Reason::kUnsupported, "the source is already quantized",
                     {.file = "config.json"}, "Give the BF16, F16 or F32 original");
  }
  OCTAVO_RETURN_IF_ERROR(CheckMeasurable(recipe));
  OCTAVO_ASSIGN_OR_RETURN(const auto schemes, ResolveSchemes(recipe, checkpoint.tensors));
  v1::Plan written;  // where things would lie: for the types of scales
  OCTAVO_ASSIGN_OR_RETURN(const Layout layout, LayOutFiles(checkpoint, recipe, schemes, &written));
  OCTAVO_ASSIGN_OR_RETURN(const SenseGroups groups, SenseGroupsOf(layout));

  v1::Plan plan;
  plan.set_measures(true);
  *plan.mutable_model() = checkpoint.model;
  *plan.mutable_recipe() = recipe;
  *plan.mutable_recipe()->mutable_calibration() = measure;
  OCTAVO_ASSIGN_OR_RETURN(*plan.mutable_calibration(), PlanCalibration(checkpoint, calibration));
  SenseCutter cutter(groups, &plan);
  for (int32_t layer = 0; layer < plan.calibration().layers_size(); ++layer) {
    cutter.AddLayer(layer);
  }
  plan.mutable_calibration()->set_kept_bytes(KeptBytesOfBatch(plan));
  for (const v1::SourceFile& file : checkpoint.files) {
    v1::SourceFile* source = plan.add_sources();
    *source = file;
    source->set_mtime_ns(0);
  }
  return plan;
}

uint64_t SenseMemoryBytes(const v1::Plan& plan) {
  uint64_t most = 0;
  for (const v1::Unit& unit : plan.units()) {
    if (unit.kind() != v1::UNIT_SENSE) continue;
    most = std::max(most, SenseBytes(unit.hessian().channels(),
                                     static_cast<uint64_t>(unit.pieces_size()), kSenseThreads));
  }
  return most;
}

double SenseOperations(const v1::Plan& plan, const v1::Unit& unit) {
  const v1::HessianSpec& spec = unit.hessian();
  auto tokens = static_cast<double>(spec.token_end() - spec.token_begin());
  if (spec.expert() >= 0) {  // as if they spread evenly
    const v1::CalibrationPlan& calibration = plan.calibration();
    tokens = static_cast<double>(calibration.batches(calibration.batches_size() - 1).token_end()) *
             static_cast<double>(plan.model().experts_per_token()) /
             static_cast<double>(std::max<int64_t>(1, plan.model().expert_count()));
  }
  double elements = 0;
  for (const v1::Piece& piece : unit.pieces()) {
    elements += static_cast<double>(piece.row_end() - piece.row_begin());
  }
  elements *= static_cast<double>(spec.channels());
  return 2 * elements * tokens * (spec.has_input() ? 4 : 2);
}

}  // namespace octavo
