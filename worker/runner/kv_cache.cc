#include "worker/runner/kv_cache.h"

#include "core/base/error.h"
#include "fmt/format.h"
#include "worker/runner/read_tensor.h"

namespace octavo {

absl::StatusOr<std::vector<KvScale>> LoadCacheScales(const v1::ServePlan& plan, ShardFiles* files) {
  std::vector<KvScale> scales;
  for (const v1::CacheScales& layer : plan.cache_scales()) {
    OCTAVO_ASSIGN_OR_RETURN(const auto key, ReadScales(files, layer.key(), 1));
    OCTAVO_ASSIGN_OR_RETURN(const auto value, ReadScales(files, layer.value(), 1));
    scales.push_back({key.front(), value.front()});
  }
  if (scales.empty() || static_cast<int64_t>(scales.size()) == plan.model().layer_count()) {
    return scales;
  }
  return MakeError(Reason::kInternal,
                   fmt::format("the serving plan has the cache's scales of {} layers of {}",
                               scales.size(), plan.model().layer_count()));
}

}  // namespace octavo
