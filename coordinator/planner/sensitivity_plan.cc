#include "coordinator/planner/sensitivity_plan.h"

#include <algorithm>
#include <set>
#include <vector>

#include "coordinator/planner/calibration_plan.h"
#include "coordinator/planner/layer_units.h"
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

absl::StatusOr<WeightGroups> SenseGroupsOf(const Layout& layout) {
  WeightGroups groups;
  for (const PlacedTensor& tensor : layout.tensors) {
    if (tensor.scheme.scheme == nullptr || tensor.source_bytes() == 0) continue;
    if (tensor.source->role() == v1::LM_HEAD) continue;  // nothing measures what it reads
    AddToGroups(tensor, &groups);
  }
  if (groups.empty()) {
    return MakeError(Reason::kUnsupported, "the recipe quantizes nothing of this model");
  }
  return groups;
}

class SenseCutter {
 public:
  SenseCutter(const WeightGroups& groups, v1::Plan* plan) : groups_(groups), units_(plan) {}

  void AddLayer(int32_t layer) {
    const auto phase = static_cast<uint32_t>(layer) * kSensePhases;
    const LayerGroups groups(groups_, layer);
    std::set<v1::ObservedPoint> points;
    for (const WeightGroup& group : groups) points.insert(std::get<1>(group.first));
    units_.AddBatches(v1::UNIT_CALIBRATE, layer, phase, points);
    for (const WeightGroup& group : groups) {
      if (std::get<2>(group.first) >= 0) {
        AddSense(group, phase + 1, 0, 0);
        continue;
      }
      constexpr auto kPart = static_cast<uint64_t>(kSenseTokens);
      for (uint64_t token = 0; token < units_.tokens(); token += kPart) {
        AddSense(group, phase + 1, token, std::min(units_.tokens(), token + kPart));
      }
    }
  }

 private:
  void AddSense(const WeightGroup& group, uint32_t phase, uint64_t begin, uint64_t end) {
    v1::Unit* unit = units_.Add(v1::UNIT_SENSE, std::get<0>(group.first), phase);
    v1::HessianSpec& spec = *unit->mutable_hessian();
    LayerUnits::SetRead(group, &spec);
    spec.set_token_begin(begin);
    spec.set_token_end(end);
    const v1::Scheme& scheme = *group.second.front()->scheme.scheme;
    // The scale of a static input is only known when all tokens were seen.
    if (scheme.has_input() && scheme.input().dynamic()) *spec.mutable_input() = scheme.input();
    units_.AddPieces(group, unit);
    for (v1::Piece& piece : *unit->mutable_pieces()) {  // nothing is written
      ClearOutput(&piece);
    }
  }

  const WeightGroups& groups_;
  LayerUnits units_;
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
  OCTAVO_ASSIGN_OR_RETURN(const WeightGroups groups, SenseGroupsOf(layout));

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
    uint64_t turned = 0;
    for (const v1::Piece& piece : unit.pieces()) turned = std::max(turned, TurnedBytes(piece));
    most = std::max(
        most, turned + SenseBytes(unit.hessian().channels(),
                                  static_cast<uint64_t>(unit.pieces_size()), kPlannedThreads));
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
    elements += static_cast<double>(OutputsOf(piece));
  }
  elements *= static_cast<double>(spec.channels());
  return 2 * elements * tokens * (spec.has_input() ? 4 : 2);
}

}  // namespace octavo
