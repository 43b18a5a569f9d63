#include "worker/stage/layer_stats.h"

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/plan/scratch_files.h"
#include "core/store/local_store.h"
#include "core/store/store.h"

namespace octavo {

absl::StatusOr<LayerStatsFile> ReadLayerStats(const std::string& scratch_dir, uint32_t layer,
                                              uint32_t batch) {
  constexpr uint64_t kBytesMax = 64u << 20;
  LayerStatsFile file;
  file.path = JoinPath(scratch_dir, StatsFileName(layer, batch));
  OCTAVO_ASSIGN_OR_RETURN(const std::string bytes, ReadWhole(LocalStore(), file.path, kBytesMax));
  file.bytes = bytes.size();
  if (file.stats.ParseFromString(bytes)) return file;
  return MakeError(Reason::kCorrupted, "cannot parse the statistics", {.file = file.path});
}

}  // namespace octavo
