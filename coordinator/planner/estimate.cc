#include "coordinator/planner/estimate.h"

#include <algorithm>
#include <set>
#include <span>
#include <string_view>

#include "coordinator/planner/calibration_cost.h"
#include "coordinator/planner/calibration_plan.h"
#include "core/base/limits.h"
#include "core/plan/layer_plan.h"

namespace octavo {
namespace {

// A worker's code, libraries and connections beside its buffers.
constexpr uint64_t kProcessBytes = 128u << 20;
// Starting processes, planning, publishing.
constexpr double kFixedSeconds = 0.5;

// Source, codes and scales of the largest block of rows of a unit: what one task holds at a time.
uint64_t BufferBytes(const v1::Unit& unit) {
  uint64_t most = 0;
  for (const v1::Piece& piece : unit.pieces()) {
    const auto rows = static_cast<uint64_t>(piece.row_end() - piece.row_begin());
    if (rows == 0 || piece.source().shape_size() != 2) continue;
    const uint64_t block = std::min<uint64_t>(rows, kUnitRowMultiple);
    const auto columns = static_cast<uint64_t>(piece.source().shape(1));
    const uint64_t row_bytes =
        (piece.source().end() - piece.source().begin()) / piece.source().shape(0);
    most = std::max(most, block * (row_bytes + columns + sizeof(float)));
  }
  return most;
}

// What a pass through a layer reaches of the multipliers' rate, norms, attention, observers and the
// packing of weights included.
constexpr double kProductEfficiency = 0.6;
// Of a task and its receipt, whose files are synced.
constexpr double kTaskSeconds = 0.004;

// What the search for the scale of least squared error takes, in casts of the same rows: 20 grid
// points, each a cast and its error (measured: 30 to 36).
constexpr uint64_t kSearchCasts = 32;

// Source bytes of a unit as casts see them: more where it searches.
uint64_t CastBytes(const v1::Unit& unit) {
  uint64_t bytes = 0;
  for (const v1::Piece& piece : unit.pieces()) {
    const v1::TensorSpec& source = piece.source();
    const uint64_t rows = source.shape_size() == 2 ? static_cast<uint64_t>(source.shape(0)) : 1;
    const uint64_t own = (source.end() - source.begin()) / rows *
                         static_cast<uint64_t>(piece.row_end() - piece.row_begin());
    // A joint scale is searched for in units of their own.
    const bool joint = piece.tie_group() >= 0 && unit.phase() > 0;
    const bool searches =
        piece.algorithm() == v1::MSE &&
        (unit.kind() == v1::UNIT_STAT_MSE || (unit.kind() == v1::UNIT_CAST && !joint));
    bytes += searches ? own * kSearchCasts : own;
  }
  return bytes;
}

struct Resource {
  const char* name;
  double seconds;
};

void ChooseLongest(std::span<const Resource> resources, Estimate* estimate) {
  double most = 0;
  for (const Resource& resource : resources) {
    if (resource.seconds <= most) continue;
    most = resource.seconds;
    estimate->limit = resource.name;
  }
  estimate->seconds = most + kFixedSeconds;
}

// Bytes that all units cast or verify.
struct Traffic {
  uint64_t cast = 0;
  uint64_t written = 0;
};

void EstimatePlain(const Traffic& traffic, const MachineRates& rates, double cores,
                   Estimate* estimate) {
  const auto read = static_cast<double>(estimate->source_bytes + estimate->reread_bytes);
  const auto written = static_cast<double>(traffic.written);
  const Resource resources[] = {{"read", read / rates.read},
                                {"write", written / rates.write},
                                {"disk", (read + written) / rates.disk},
                                {"cast", static_cast<double>(traffic.cast) / rates.cast / cores},
                                {"verify", written / rates.verify / cores}};
  ChooseLongest(resources, estimate);
}

// What calibrating takes, whatever the machine.
void CountCalibration(const v1::Plan& plan, const CalibrationCost& cost, const Workforce& force,
                      Estimate* estimate) {
  const CalibrateMemory memory = CalibrateBytes(plan);
  estimate->memory_bytes_min = MemoryForCalibrating(memory.streamed);
  estimate->memory_bytes_resident = MemoryForCalibrating(memory.resident);
  estimate->operations = cost.operations;
  const bool resident = force.memory_bytes >= estimate->memory_bytes_resident;
  const auto layers = static_cast<double>(std::max(1, plan.calibration().layers_size()));
  estimate->layer_reread_bytes =
      resident ? static_cast<uint64_t>(static_cast<double>(cost.weight_bytes) *
                                       std::max(1.0, force.workers / layers))
               : cost.streamed_bytes;
}

void EstimateCalibrated(const v1::Plan& plan, const CalibrationCost& cost, const Traffic& traffic,
                        const MachineRates& rates, const Workforce& force, Estimate* estimate) {
  const bool resident = force.memory_bytes >= estimate->memory_bytes_resident;
  const double machines = force.own_machines ? force.workers : 1;
  const double all = rates.products_all * kProductEfficiency;
  const double core = rates.products_core * kProductEfficiency;
  // A streamed pass has all cores of its worker.
  const double unit = resident ? core : all;
  const auto written = static_cast<double>(traffic.written + cost.spilled_bytes);
  const auto read = static_cast<double>(estimate->source_bytes + estimate->reread_bytes +
                                        estimate->layer_reread_bytes + cost.spilled_bytes);
  const double one_core = static_cast<double>(traffic.cast) / rates.cast +
                          static_cast<double>(traffic.written) / rates.verify +
                          plan.units_size() * kTaskSeconds;
  const Resource resources[] = {
      {"compute", cost.operations / (machines * all) + one_core / (machines * rates.cores)},
      {"micro-batches", cost.operations / (cost.batches * unit)},
      {"layers", cost.longest_chain / unit},
      {"disk", (read + written) / rates.disk}};
  ChooseLongest(resources, estimate);
}

}  // namespace

Estimate EstimateJob(const v1::Plan& plan, const MachineRates& rates, const Workforce& force) {
  Estimate estimate;
  estimate.units = static_cast<uint32_t>(plan.units_size());
  estimate.source_bytes = plan.source_bytes();
  estimate.output_bytes = plan.output_bytes();
  estimate.disk_bytes = plan.output_bytes() + SpillBytes(plan);
  std::set<std::string_view> quantized;
  std::set<std::string_view> kept;
  Traffic traffic;
  for (const v1::Unit& unit : plan.units()) {
    estimate.phases = std::max(estimate.phases, unit.phase() + 1);
    estimate.unit_bytes_max = std::max(estimate.unit_bytes_max, BufferBytes(unit));
    traffic.written += unit.output_bytes();
    if (unit.kind() != v1::UNIT_COPY && unit.kind() != v1::UNIT_CALIBRATE &&
        unit.kind() != v1::UNIT_PROPAGATE && unit.kind() != v1::UNIT_HESSIAN) {
      traffic.cast += CastBytes(unit);
    }
    if (unit.kind() == v1::UNIT_STAT_AMAX || unit.kind() == v1::UNIT_STAT_MSE) {
      estimate.reread_bytes += unit.source_bytes();
    }
    for (const v1::Piece& piece : unit.pieces()) {
      (piece.has_format() ? quantized : kept).insert(piece.source().name());
    }
  }
  estimate.quantized_tensors = quantized.size();
  estimate.kept_tensors = kept.size();
  estimate.memory_bytes_min = kProcessBytes + estimate.unit_bytes_max;
  CalibrationCost cost;
  if (plan.has_calibration()) {
    cost = CostOfCalibration(plan);
    CountCalibration(plan, cost, force, &estimate);
  }
  for (const double rate : {rates.read, rates.write, rates.disk, rates.cast, rates.verify}) {
    if (rate <= 0) return estimate;
  }
  if (!plan.has_calibration()) {
    const int cores =
        force.own_machines ? force.workers * rates.cores : std::min(force.workers, rates.cores);
    EstimatePlain(traffic, rates, std::max(1, cores), &estimate);
  } else if (rates.products_all > 0 && rates.products_core > 0) {
    EstimateCalibrated(plan, cost, traffic, rates, force, &estimate);
  }
  return estimate;
}

}  // namespace octavo
