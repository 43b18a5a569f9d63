#pragma once

// What UNIT_CALIBRATE left of one layer and micro-batch (core/plan/scratch_files.h). Private to
// worker/stage.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// The statistics, and how many bytes they take. kInputMissing, kIo; kCorrupted naming the file.
struct LayerStatsFile {
  v1::LayerStats stats;
  std::string path;
  uint64_t bytes = 0;
};
absl::StatusOr<LayerStatsFile> ReadLayerStats(const std::string& scratch_dir, uint32_t layer,
                                              uint32_t batch);

}  // namespace octavo
