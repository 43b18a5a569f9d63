// UNIT_SCALES: what calibration saw of a layer becomes scalars in the output.

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/compat.h"
#include "core/scheme/point_stats.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/scale.h"
#include "core/tensor/dtype_proto.h"
#include "worker/quant/piece.h"
#include "worker/quant/static_scale.h"
#include "worker/stage/layer_stats.h"
#include "worker/stage/unit_run.h"

namespace octavo {
namespace {

constexpr uint32_t kScaleCopiesMax = 4096;

absl::Status Unseen(const v1::PointStat& stat, const v1::StaticScale& scale) {
  return MakeError(Reason::kBadData,
                   "calibration saw no token at " + PointName(stat) + ": no scale can be made",
                   {.tensor = scale.tensor()},
                   "Calibrate with more, and more varied, samples, or with coverage: quota 512");
}

// Experts that a mode counts as seen have a maximum without rows (AddUnvisited).
bool NothingSeen(const v1::PointStat& stat) { return stat.rows() == 0 && stat.amax_bits() == 0; }

bool Covers(const v1::StaticScale& scale, v1::ObservedPoint point) {
  return scale.point() == point ||
         std::find(scale.also().begin(), scale.also().end(), point) != scale.also().end();
}

// For every expert that has a scale and that no row of this micro-batch visited, a statistic with
// the maximum that `mode` counts for it.
void AddUnvisited(const CompatMode& mode, const v1::Unit& unit, v1::LayerStats* stats) {
  if (mode.unvisited_amax_bits == 0) return;
  std::set<std::pair<int32_t, int>> seen;
  for (const v1::PointStat& stat : stats->points()) {
    if (stat.rows() > 0) seen.emplace(stat.expert(), stat.point());
  }
  for (const v1::StaticScale& scale : unit.scales()) {
    if (scale.expert() < 0 || !seen.emplace(scale.expert(), scale.point()).second) continue;
    v1::PointStat* stat = stats->add_points();
    stat->set_layer(scale.layer());
    stat->set_expert(scale.expert());
    stat->set_point(scale.point());
    stat->set_amax_bits(mode.unvisited_amax_bits);
  }
}

// Everything seen at one place of the layer, over all micro-batches; with expert -1 in a mixture,
// over all experts, of which each must have been seen.
absl::StatusOr<v1::PointStat> StatOfScale(const v1::StaticScale& scale,
                                          const std::vector<v1::PointStat>& stats) {
  v1::PointStat merged;
  merged.set_layer(scale.layer());
  merged.set_expert(scale.expert());
  merged.set_point(scale.point());
  for (const v1::PointStat& stat : stats) {
    if (stat.layer() != scale.layer() || !Covers(scale, stat.point())) continue;
    if (scale.expert() >= 0 && stat.expert() != scale.expert()) continue;
    if (NothingSeen(stat)) return Unseen(stat, scale);
    OCTAVO_RETURN_IF_ERROR(AddPointStat(stat, &merged));
  }
  if (NothingSeen(merged)) return Unseen(merged, scale);
  return merged;
}

std::string StoredBytes(float scale, DType dtype, uint32_t count) {
  const uint32_t bits = StoredScaleBits(scale, SourceTypeOf(dtype));
  std::string bytes;
  for (uint32_t i = 0; i < count; ++i) {  // little endian: the low half is a 16-bit scale
    bytes.append(reinterpret_cast<const char*>(&bits), static_cast<size_t>(ByteSize(dtype)));
  }
  return bytes;
}

}  // namespace

absl::Status UnitRun::ReadStats() {
  const Stopwatch watch(&read_seconds_);
  std::vector<v1::PointStat> all;
  for (uint32_t batch = 0; batch < task_.batch_count(); ++batch) {
    OCTAVO_RETURN_IF_ERROR(CheckStop());
    OCTAVO_ASSIGN_OR_RETURN(LayerStatsFile file,
                            ReadLayerStats(task_.scratch_dir(), task_.unit().layer(), batch));
    bytes_read_ += file.bytes;
    AddUnvisited(CompatModeOf(task_.compat()), task_.unit(), &file.stats);
    all.insert(all.end(), file.stats.points().begin(), file.stats.points().end());
    OCTAVO_ASSIGN_OR_RETURN(all, MergePointStats(all));
  }
  points_ = std::move(all);
  return absl::OkStatus();
}

absl::Status UnitRun::WriteScale(const v1::StaticScale& scale) {
  const DType dtype = FromProto(scale.dtype());
  OCTAVO_ASSIGN_OR_RETURN(const v1::PointStat stat, StatOfScale(scale, points_));
  OCTAVO_ASSIGN_OR_RETURN(const float value, StaticScale(stat, task_.calibration(), CodeType::kFp8,
                                                         dtype, CompatModeOf(task_.compat())));
  if (scale.count() == 0 || scale.count() > kScaleCopiesMax) {
    return MakeError(Reason::kInternal, "a static scale with an impossible count",
                     {.tensor = scale.tensor()});
  }
  const std::string bytes = StoredBytes(value, dtype, scale.count());
  std::string back(bytes.size(), '\0');
  OCTAVO_RETURN_IF_ERROR(WriteVerified(scale.out(), 0, std::as_bytes(std::span(bytes)),
                                       std::as_writable_bytes(std::span(back))));
  DigestStream digest;
  digest.Add(std::as_bytes(std::span(bytes)));
  AddDigest(scale.out(), digest);
  v1::ScaleReport* report = receipt_.add_scales();
  report->set_tensor(scale.tensor());
  report->set_scale(value);
  report->set_amax(FloatFromBits(stat.amax_bits()));
  report->set_rows(stat.rows());
  return absl::OkStatus();
}

// Points are in the order of (layer, expert, point).
void UnitRun::ReportExperts() {
  for (const v1::PointStat& stat : points_) {
    if (stat.expert() < 0) continue;
    if (stat.point() == v1::OBSERVED_MLP_INNER && !receipt_.experts().empty()) {
      v1::ExpertCoverage* expert = receipt_.mutable_experts(receipt_.experts_size() - 1);
      if (expert->expert() == static_cast<uint32_t>(stat.expert())) {
        expert->set_inner_amax(FloatFromBits(stat.amax_bits()));
      }
    }
    if (stat.point() != v1::OBSERVED_MLP_INPUT) continue;
    v1::ExpertCoverage* expert = receipt_.add_experts();
    expert->set_input_amax(FloatFromBits(stat.amax_bits()));
    expert->set_layer(static_cast<uint32_t>(stat.layer()));
    expert->set_expert(static_cast<uint32_t>(stat.expert()));
    expert->set_rows(stat.rows());
    expert->set_routed(stat.routed());
  }
}

absl::Status UnitRun::WriteScales() {
  OCTAVO_RETURN_IF_ERROR(ReadStats());
  ReportExperts();
  for (const v1::StaticScale& scale : task_.unit().scales()) {
    OCTAVO_RETURN_IF_ERROR(WriteScale(scale));
  }
  points_.clear();
  return absl::OkStatus();
}

}  // namespace octavo
