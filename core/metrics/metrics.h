#pragma once

// The numbers a process shows. One Metrics per process, made in main and handed down by pointer; a
// null pointer is allowed where a constructor says so. Thread-safe; a call costs a lock and a
// look-up, so hot loops count by themselves and report per unit or step.

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>

#include "core/metrics/names.h"

namespace octavo {

class Metrics {
 public:
  // Shows every metric of `home` (and of kBoth) that has no labels at 0, and build_info.
  Metrics(MetricHome home, std::string_view program);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  using Labels = std::initializer_list<std::string_view>;
  // Counter. `labels` gives one value for each label of `def`, in its order. A metric takes at most
  // 64 different label values; beyond, the value is "other".
  void Add(const MetricDef& def, double by = 1, Labels labels = {});
  // Gauge.
  void Set(const MetricDef& def, double value, Labels labels = {});
  void Shift(const MetricDef& def, double by, Labels labels = {});
  // Histogram.
  void Observe(const MetricDef& def, double value, Labels labels = {});
  // Histogram, of many values that were counted elsewhere: so many for each bucket of `def` and one
  // count more for those beyond, and their sum.
  void ObserveMany(const MetricDef& def, std::span<const uint64_t> counts, double sum,
                   Labels labels = {});

  // The current value of a counter or gauge, how many values a histogram has; 0 where it was never
  // touched. For tests and reports.
  double ValueOf(const MetricDef& def, Labels labels = {}) const;
  // What the values of a histogram add up to. For tests.
  double SumOf(const MetricDef& def, Labels labels = {}) const;

  // Resident memory of this process from /proc/self/status, into kRss and kRssPeak.
  void UpdateMemory();

 private:
  friend class Exposer;
  struct State;
  std::unique_ptr<State> state_;
};

// Bytes from /proc/self/status; 0 where it cannot be read.
struct MemoryUse {
  uint64_t resident = 0;
  uint64_t peak = 0;
};
MemoryUse ReadMemoryUse();

}  // namespace octavo
