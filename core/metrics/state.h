#pragma once

// What Metrics and Exposer share: the prometheus-cpp registry. Only the two of them include this.

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/base/mutex.h"
#include "core/metrics/metrics.h"
#include "prometheus/registry.h"

namespace octavo {

struct Metrics::State {
  // One series: exactly one of the three pointers is set. Owned by the registry.
  struct Series {
    prometheus::Counter* counter = nullptr;
    prometheus::Gauge* gauge = nullptr;
    prometheus::Histogram* histogram = nullptr;
  };
  using Key = std::pair<const MetricDef*, std::vector<std::string>>;

  Series Find(const MetricDef& def, Labels labels);

  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  mutable Mutex mutex;
  std::map<Key, Series> series OCTAVO_GUARDED_BY(mutex);
  std::map<const MetricDef*, int> series_count OCTAVO_GUARDED_BY(mutex);
};

}  // namespace octavo
