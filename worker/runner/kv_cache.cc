#include "worker/runner/kv_cache.h"

#include "core/base/error.h"
#include "fmt/format.h"
#include "worker/runner/read_tensor.h"

namespace octavo {

namespace {

absl::StatusOr<float> ScaleOf(ShardFiles* files, bool stored, const v1::TensorSpec& spec) {
  if (!stored) return 1.0f;
  OCTAVO_ASSIGN_OR_RETURN(const auto scale, ReadScales(files, spec, 1));
  return scale.front();
}

}  // namespace

absl::StatusOr<std::vector<KvScale>> LoadCacheScales(const v1::ServePlan& plan, ShardFiles* files) {
  std::vector<KvScale> scales;
  for (const v1::CacheScales& layer : plan.cache_scales()) {
    KvScale& own = scales.emplace_back();
    OCTAVO_ASSIGN_OR_RETURN(own.key, ScaleOf(files, layer.has_key(), layer.key()));
    OCTAVO_ASSIGN_OR_RETURN(own.value, ScaleOf(files, layer.has_value(), layer.value()));
  }
  if (scales.empty() || static_cast<int64_t>(scales.size()) == plan.model().layer_count()) {
    return scales;
  }
  return MakeError(Reason::kInternal,
                   fmt::format("the serving plan has the cache's scales of {} layers of {}",
                               scales.size(), plan.model().layer_count()));
}

}  // namespace octavo
