#include "coordinator/planner/estimate.h"

#include <algorithm>
#include <set>

#include "coordinator/planner/calibration_plan.h"
#include "core/base/limits.h"

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

}  // namespace

Estimate EstimateJob(const v1::Plan& plan, const MachineRates& rates, int workers) {
  Estimate estimate;
  estimate.units = static_cast<uint32_t>(plan.units_size());
  estimate.source_bytes = plan.source_bytes();
  estimate.output_bytes = plan.output_bytes();
  estimate.disk_bytes = plan.output_bytes() + SpillBytes(plan);
  std::set<std::string_view> quantized;
  std::set<std::string_view> kept;
  uint64_t cast_bytes = 0;
  uint64_t written = 0;
  for (const v1::Unit& unit : plan.units()) {
    estimate.phases = std::max(estimate.phases, unit.phase() + 1);
    estimate.unit_bytes_max = std::max(estimate.unit_bytes_max, BufferBytes(unit));
    written += unit.output_bytes();
    if (unit.kind() != v1::UNIT_COPY) cast_bytes += unit.source_bytes();
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
  if (plan.has_calibration()) {  // a worker keeps as much again for casting
    estimate.memory_bytes_min = kProcessBytes + 2 * CalibrateBytes(plan).streamed;
    return estimate;  // no rate of products is measured yet: no time
  }
  for (const double rate : {rates.read, rates.write, rates.disk, rates.cast, rates.verify}) {
    if (rate <= 0) return estimate;
  }

  const double cores = std::max(1, std::min(workers, rates.cores));
  const uint64_t read = estimate.source_bytes + estimate.reread_bytes;
  const std::pair<const char*, double> times[] = {
      {"read", static_cast<double>(read) / rates.read},
      {"write", static_cast<double>(written) / rates.write},
      {"disk", static_cast<double>(read + written) / rates.disk},
      {"cast", static_cast<double>(cast_bytes) / rates.cast / cores},
      {"verify", static_cast<double>(written) / rates.verify / cores}};
  double most = 0;
  for (const auto& [name, seconds] : times) {
    if (seconds <= most) continue;
    most = seconds;
    estimate.limit = name;
  }
  estimate.seconds = most + kFixedSeconds;
  return estimate;
}

}  // namespace octavo
