#include "coordinator/planner/solve_plan.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "coordinator/planner/calibration_plan.h"
#include "coordinator/planner/layer_units.h"
#include "coordinator/planner/smooth_plan.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/dialect.h"
#include "core/plan/layer_plan.h"
#include "core/plan/serve_plan.h"
#include "core/plan/solve_memory.h"
#include "core/tensor/bare/two_of_four.h"
#include "core/tensor/bare/units.h"
#include "core/tensor/dtype_proto.h"

namespace octavo {
namespace {

constexpr uint32_t kPhasesPerLayer = 3;
constexpr uint32_t kWeightsPhase = 2;  // of a layer

// What is solved, or smoothed and quantized; all of it is marked. Those of a group share a Hessian.
WeightGroups GroupsOf(const SmoothedPoints& smoothed, Layout* layout) {
  WeightGroups groups;
  for (PlacedTensor& tensor : layout->tensors) {
    const v1::ModelTensor& source = *tensor.source;
    const v1::ObservedPoint point = InputPointOf(source.role());
    const bool folds = smoothed.contains({source.layer(), point});
    if (tensor.scheme.scheme == nullptr || tensor.source_bytes() == 0) continue;
    if (tensor.scheme.solver == nullptr && !folds) continue;
    tensor.by_layers = true;
    AddToGroups(tensor, &groups);
  }
  return groups;
}

bool IsSolved(const WeightGroup& group) { return group.second.front()->scheme.solver != nullptr; }

// A tensor of scales at its place in an output file.
v1::TensorSpec SpecOf(const ScaleShape& shape, v1::DType dtype, uint32_t output_file,
                      uint64_t begin, const v1::Plan& plan) {
  v1::TensorSpec spec;
  spec.set_name(shape.name);
  spec.set_file(plan.outputs(static_cast<int>(output_file)).name());
  spec.set_dtype(dtype);
  auto bytes = static_cast<uint64_t>(ByteSize(FromProto(dtype)));
  for (const int64_t size : shape.shape) {
    spec.add_shape(size);
    bytes *= static_cast<uint64_t>(size);
  }
  spec.set_begin(begin);
  spec.set_end(begin + bytes);
  return spec;
}

// Where calibration puts the scale of a static input; of experts that are not tied the first one.
v1::TensorSpec StagedInputScale(const PlacedTensor& placed, const Layout& layout,
                                const v1::Plan& plan) {
  const ScaleShape shape = InputScaleOf(plan.recipe().dialect(), plan.model(), *placed.source);
  const auto own =
      std::find_if(layout.scales.begin(), layout.scales.end(),
                   [&](const v1::StaticScale& scale) { return scale.tensor() == shape.name; });
  OCTAVO_CHECK(own != layout.scales.end());
  return SpecOf(shape, own->dtype(), placed.output_file, own->out().begin(), plan);
}

// A tensor as it will lie in the staging folder.
ServedTensor StagedTensor(const PlacedTensor& placed, const Layout& layout, const v1::Plan& plan) {
  ServedTensor served;
  served.tensor = *placed.source;
  v1::TensorSpec& spec = *served.tensor.mutable_spec();
  const std::string& file = plan.outputs(static_cast<int>(placed.output_file)).name();
  spec.set_file(file);
  spec.set_begin(placed.weight_begin);
  if (placed.scheme.scheme == nullptr) {
    spec.set_end(placed.weight_begin + placed.source_bytes());
    return served;
  }
  const v1::NumericFormat& format = placed.scheme.scheme->weight();
  spec.set_dtype(ToProto(CodeDType(format.type())));
  const auto codes = static_cast<uint64_t>(spec.shape(0) * spec.shape(1));
  spec.set_end(placed.weight_begin + (placed.bitmask_begin ? codes / 2 : codes));
  if (placed.bitmask_begin) {
    v1::Bitmask& bits = *spec.mutable_bitmask();
    bits.set_file(file);
    bits.set_begin(*placed.bitmask_begin);
    bits.set_end(bits.begin() +
                 static_cast<uint64_t>(spec.shape(0) * BitmaskRowBytes(spec.shape(1))));
  }
  served.scheme = *placed.scheme.scheme;
  const ScaleShape shape =
      WeightScaleOf(plan.recipe().dialect(), plan.model(), *placed.source, format);
  served.scale = SpecOf(shape, placed.scale_dtype, placed.output_file, placed.scale_begin, plan);
  if (HasStaticInput(served.scheme.value())) {
    served.input_scale = StagedInputScale(placed, layout, plan);
  }
  return served;
}

absl::Status PlanSolvedLayers(const Checkpoint& checkpoint, const Layout& layout, v1::Plan* plan) {
  std::vector<ServedTensor> tensors;
  for (const PlacedTensor& placed : layout.tensors) {
    tensors.push_back(StagedTensor(placed, layout, *plan));
  }
  v1::CalibrationPlan& calibration = *plan->mutable_calibration();
  const uint32_t longest =
      *std::max_element(calibration.sample_lengths().begin(), calibration.sample_lengths().end());
  OCTAVO_ASSIGN_OR_RETURN(const v1::ServePlan whole,
                          PlanServing(checkpoint.model, tensors, {.max_model_len = longest}));
  for (int32_t layer = 0; layer < checkpoint.model.layer_count(); ++layer) {
    *calibration.add_solved_layers() = LayerPlan(whole, layer);
  }
  return absl::OkStatus();
}

// Units of one layer after the other.
class SolveCutter {
 public:
  SolveCutter(const WeightGroups& groups, const SmoothedPoints& smoothed, v1::Plan* plan)
      : groups_(groups), smoothed_(smoothed), plan_(plan), units_(plan) {}

  void AddLayer(int32_t layer) {
    const auto phase = static_cast<uint32_t>(layer) * kPhasesPerLayer;
    if (layer > 0 && !plan_->calibration().solved_layers().empty()) {
      units_.AddBatches(v1::UNIT_PROPAGATE, layer - 1, phase, {});
    }
    const LayerGroups groups(groups_, layer);
    std::set<v1::ObservedPoint> solved;
    for (const WeightGroup& group : groups) {
      if (IsSolved(group)) solved.insert(std::get<1>(group.first));
    }
    const std::vector<v1::ObservedPoint> smoothed = SmoothedIn(layer);
    units_.AddBatches(v1::UNIT_CALIBRATE, layer, phase, solved, smoothed);
    for (const WeightGroup& group : groups) AddLeaves(group, phase + 1);
    AddMeans(groups, phase + 1);
    for (const v1::ObservedPoint point : smoothed) {
      v1::Unit* unit = units_.Add(v1::UNIT_SMOOTH, layer, phase + 1);
      FillSmoothUnit(smoothed_.at({layer, point}), plan_->recipe().smooth().strength(), unit);
      plan_->set_source_bytes(plan_->source_bytes() + unit->output_bytes());
    }
    for (const WeightGroup& group : groups) AddWeights(group, phase + kWeightsPhase);
  }

 private:
  std::vector<v1::ObservedPoint> SmoothedIn(int32_t layer) const {
    std::vector<v1::ObservedPoint> points;
    for (const auto& [where, smoothed] : smoothed_) {
      if (where.first == layer) points.push_back(where.second);
    }
    return points;
  }

  uint64_t leaf_tokens() const {
    return static_cast<uint64_t>(HessianLeafTokens(static_cast<int64_t>(units_.tokens())));
  }
  // An expert's tokens are one leaf, and it is summed where it is solved.
  uint32_t leaf_count(const WeightGroup& group) const {
    if (std::get<2>(group.first) >= 0 || !IsSolved(group)) return 0;
    return static_cast<uint32_t>((units_.tokens() + leaf_tokens() - 1) / leaf_tokens());
  }

  void AddLeaves(const WeightGroup& group, uint32_t phase) {
    for (uint32_t leaf = 0; leaf < leaf_count(group); ++leaf) {
      v1::Unit* unit = units_.Add(v1::UNIT_HESSIAN, std::get<0>(group.first), phase);
      v1::HessianSpec* hessian = unit->mutable_hessian();
      LayerUnits::SetRead(group, hessian);
      hessian->set_leaf(leaf);
      hessian->set_token_begin(leaf * leaf_tokens());
      hessian->set_token_end(std::min(units_.tokens(), (leaf + 1) * leaf_tokens()));
      unit->set_source_bytes((hessian->token_end() - hessian->token_begin()) *
                             static_cast<uint64_t>(hessian->channels()) * 2);
    }
  }

  // For every point of the layer's experts, one: of the first of its groups.
  void AddMeans(const LayerGroups& groups, uint32_t phase) {
    std::set<v1::ObservedPoint> seen;
    for (const WeightGroup& group : groups) {
      const auto& [layer, point, expert] = group.first;
      if (expert < 0 || !IsSolved(group) || !seen.insert(point).second) continue;
      v1::Unit* unit = units_.Add(v1::UNIT_HESSIAN, layer, phase);
      v1::HessianSpec* hessian = unit->mutable_hessian();
      LayerUnits::SetRead(group, hessian);
      hessian->set_expert(-1);
      const int64_t rows = ExpertEnoughTokens(hessian->channels());
      hessian->set_mean_rows(static_cast<uint64_t>(rows));
      unit->set_source_bytes(static_cast<uint64_t>(rows * hessian->channels()) * 2);
    }
  }

  void AddWeights(const WeightGroup& group, uint32_t phase) {
    const auto& [layer, point, expert] = group.first;
    const bool solved = IsSolved(group);
    v1::Unit* unit = units_.Add(solved ? v1::UNIT_SOLVE : v1::UNIT_CAST, layer, phase);
    if (solved) {
      v1::HessianSpec* hessian = unit->mutable_hessian();
      LayerUnits::SetRead(group, hessian);
      hessian->set_leaf_count(leaf_count(group));
      *hessian->mutable_solver() = *group.second.front()->scheme.solver;
    }
    units_.AddPieces(group, unit);
    const bool folds = smoothed_.contains({layer, point});
    uint64_t out = 0;
    for (v1::Piece& piece : *unit->mutable_pieces()) {
      if (folds) *piece.mutable_fold() = FoldOf(layer, point);
      out += OutputBytes(piece);
    }
    unit->set_output_bytes(out);
  }

  const WeightGroups& groups_;
  const SmoothedPoints& smoothed_;
  v1::Plan* plan_;
  LayerUnits units_;
};

// Rows that all experts of a layer keep at most, for one row of the residual stream.
double RowsKept(const v1::Plan& plan, v1::ObservedPoint point) {
  const v1::ModelSpec& model = plan.model();
  const bool of_experts = model.expert_count() > 0 &&
                          (point == v1::OBSERVED_MLP_INPUT || point == v1::OBSERVED_MLP_INNER);
  if (!of_experts) return 1;
  const auto experts = static_cast<double>(model.expert_count());
  uint32_t shortest = ~0u;
  for (const uint32_t length : plan.calibration().sample_lengths()) {
    shortest = std::min(shortest, length);
  }
  const double quota = static_cast<double>(ExpertQuotaOfSample(plan)) / shortest;
  return std::min(experts, static_cast<double>(model.experts_per_token()) + experts * quota);
}

// What all points of each layer keep for one row of the residual stream.
std::map<uint32_t, double> KeptRowBytes(const v1::Plan& plan) {
  std::map<uint32_t, std::map<v1::ObservedPoint, int64_t>> channels;
  for (const v1::Unit& unit : plan.units()) {
    if (unit.kind() != v1::UNIT_SOLVE && unit.kind() != v1::UNIT_SENSE) continue;
    channels[unit.layer()][unit.hessian().point()] = unit.hessian().channels();
  }
  std::map<uint32_t, double> bytes;
  for (const auto& [layer, points] : channels) {
    for (const auto& [point, width] : points) {
      bytes[layer] += static_cast<double>(width) * 2 * RowsKept(plan, point);
    }
  }
  return bytes;
}

}  // namespace

uint32_t WeightsPhaseOf(int32_t layer) {
  return static_cast<uint32_t>(layer) * kPhasesPerLayer + kWeightsPhase;
}

uint64_t KeptBytesOfBatch(const v1::Plan& plan) {
  double row = 0;
  for (const auto& [layer, bytes] : KeptRowBytes(plan)) row = std::max(row, bytes);
  uint64_t longest = 0;
  for (const v1::MicroBatch& batch : plan.calibration().batches()) {
    longest = std::max(longest, batch.token_end() - batch.token_begin());
  }
  return static_cast<uint64_t>(static_cast<double>(longest) * row);
}

absl::Status AddSolveUnits(const Checkpoint& checkpoint, Layout* layout, v1::Plan* plan) {
  OCTAVO_CHECK(plan->units().empty());
  SmoothedPoints smoothed;
  if (plan->recipe().has_smooth()) {
    OCTAVO_ASSIGN_OR_RETURN(smoothed, FindSmoothedPoints(plan->model(), layout));
  }
  if (!plan->recipe().calibration().propagates_source()) {
    OCTAVO_RETURN_IF_ERROR(PlanSolvedLayers(checkpoint, *layout, plan));
  }
  const WeightGroups groups = GroupsOf(smoothed, layout);
  SolveCutter cutter(groups, smoothed, plan);
  for (int32_t layer = 0; layer < plan->calibration().layers_size(); ++layer) {
    cutter.AddLayer(layer);
  }
  plan->mutable_calibration()->set_kept_bytes(KeptBytesOfBatch(*plan));
  return absl::OkStatus();
}

uint64_t SolveSpillBytes(const v1::Plan& plan) {
  const v1::CalibrationPlan& calibration = plan.calibration();
  std::map<uint32_t, uint64_t> hessians;  // by layer
  for (const v1::Unit& unit : plan.units()) {
    if (unit.kind() != v1::UNIT_HESSIAN) continue;
    hessians[unit.layer()] += HessianFileBytes(unit.hessian().channels());
  }
  uint64_t most = 0;
  for (const auto& [layer, row] : KeptRowBytes(plan)) {
    const auto tokens =
        static_cast<double>(calibration.batches(calibration.batches_size() - 1).token_end());
    most = std::max(most, hessians[layer] + static_cast<uint64_t>(tokens * row));
  }
  return most;
}

uint64_t SolveMemoryBytes(const v1::Plan& plan) {
  uint64_t most = 0;
  for (const v1::Unit& unit : plan.units()) {
    const v1::HessianSpec& hessian = unit.hessian();
    if (unit.kind() == v1::UNIT_HESSIAN) {
      most = std::max(most, HessianLeafBytes(hessian.channels()));
    } else if (unit.kind() == v1::UNIT_SOLVE) {
      uint64_t turned = 0;
      for (const v1::Piece& piece : unit.pieces()) turned = std::max(turned, TurnedBytes(piece));
      most = std::max(
          most, turned + SolveBytes(hessian.channels(), hessian.leaf_count(), kPlannedThreads));
    }
  }
  return most;
}

}  // namespace octavo
