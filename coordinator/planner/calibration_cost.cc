#include "coordinator/planner/calibration_cost.h"

#include <algorithm>
#include <map>

#include "coordinator/planner/calibration_plan.h"
#include "coordinator/planner/sensitivity_plan.h"
#include "core/plan/solve_memory.h"

namespace octavo {
namespace {

// Of a token's visits to an expert's matrices: how many there are per token, on average.
double ShareOf(v1::TensorRole role, const v1::ModelSpec& model, double quota_share) {
  const bool enters = role == v1::EXPERT_GATE || role == v1::EXPERT_UP;
  if (!enters && role != v1::EXPERT_DOWN) return 1;
  const double routed = static_cast<double>(model.experts_per_token()) /
                        static_cast<double>(std::max<int64_t>(1, model.expert_count()));
  return enters ? std::max(routed, quota_share) : routed;
}

// Per token, in the products of a layer.
double OperationsPerToken(const v1::ServePlan& layer, double quota_share) {
  double operations = 0;
  for (const v1::RankTensor& tensor : layer.ranks(0).tensors()) {
    const v1::TensorSpec& spec = tensor.tensor().spec();
    if (spec.shape_size() != 2) continue;
    const auto elements = static_cast<double>(spec.shape(0)) * static_cast<double>(spec.shape(1));
    operations += 2 * elements * ShareOf(tensor.tensor().role(), layer.model(), quota_share);
  }
  return operations;
}

uint64_t SourceBytes(const v1::ServePlan& layer) {
  uint64_t bytes = 0;
  for (const v1::RankTensor& tensor : layer.ranks(0).tensors()) {
    bytes += tensor.tensor().spec().end() - tensor.tensor().spec().begin();
  }
  return bytes;
}

}  // namespace

double CalibrateOperations(const v1::Plan& plan, const v1::Unit& unit) {
  const v1::CalibrationPlan& calibration = plan.calibration();
  const v1::ServePlan& layer = calibration.layers(static_cast<int>(unit.layer()));
  const v1::MicroBatch& batch = calibration.batches(static_cast<int>(unit.batch()));
  const auto samples = static_cast<double>(batch.sample_end() - batch.sample_begin());
  const auto tokens = static_cast<double>(batch.token_end() - batch.token_begin());
  const double length = tokens / samples;
  const double quota_share = std::min(1.0, ExpertQuotaOfSample(plan) / length);
  // Products with keys and with values, over half of all pairs of positions.
  const v1::ModelSpec& model = layer.model();
  const double attention =
      2.0 * static_cast<double>(model.head_count() * model.head_dim()) * (length + 1);
  return tokens * (OperationsPerToken(layer, quota_share) + attention);
}

double SolveOperations(const v1::Unit& unit) {
  const auto channels = static_cast<double>(unit.hessian().channels());
  if (unit.kind() == v1::UNIT_HESSIAN) {
    const v1::HessianSpec& hessian = unit.hessian();
    const uint64_t rows = hessian.mean_rows() + hessian.token_end() - hessian.token_begin();
    return static_cast<double>(rows) * channels * channels;
  }
  double rows = 0;
  for (const v1::Piece& piece : unit.pieces()) {
    rows += static_cast<double>(OutputsOf(piece));
  }
  // Factor and inverse, then twice over every row: with the nearest codes, and with its own. In
  // F64, of which there is half as much.
  return 2 * channels * channels * (2 * channels / 3 + 2 * rows);
}

double UnitWork(const v1::Plan& plan, const v1::Unit& unit) {
  if (unit.kind() == v1::UNIT_CALIBRATE || unit.kind() == v1::UNIT_PROPAGATE) {
    return CalibrateOperations(plan, unit) / 50e9;
  }
  if (unit.kind() == v1::UNIT_SENSE) return SenseOperations(plan, unit) / 50e9;
  if (unit.has_hessian()) return SolveOperations(unit) / 50e9;
  return static_cast<double>(unit.source_bytes() + unit.output_bytes()) / 1e9;
}

CalibrationCost CostOfCalibration(const v1::Plan& plan) {
  CalibrationCost cost;
  std::map<uint32_t, double> chains;  // by micro-batch
  for (const v1::Unit& unit : plan.units()) {
    if (unit.has_hessian()) {
      cost.operations +=
          unit.kind() == v1::UNIT_SENSE ? SenseOperations(plan, unit) : SolveOperations(unit);
    }
    if (unit.kind() != v1::UNIT_CALIBRATE && unit.kind() != v1::UNIT_PROPAGATE) continue;
    const double operations = CalibrateOperations(plan, unit);
    cost.operations += operations;
    chains[unit.batch()] += operations;
    cost.spilled_bytes += unit.source_bytes();
  }
  for (const auto& [batch, operations] : chains) {
    cost.longest_chain = std::max(cost.longest_chain, operations);
  }
  cost.batches = static_cast<uint32_t>(chains.size());
  for (const v1::ServePlan& layer : plan.calibration().layers()) {
    cost.weight_bytes += SourceBytes(layer);
  }
  cost.streamed_bytes = cost.weight_bytes * cost.batches;
  return cost;
}

}  // namespace octavo
