#include "core/metrics/metrics.h"

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/metrics/state.h"
#include "core/metrics/version.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"

namespace octavo {
namespace {

constexpr int kSeriesPerMetricMax = 64;

size_t LabelCount(const MetricDef& def) {
  size_t count = 0;
  while (count < def.labels.size() && !def.labels[count].empty()) ++count;
  return count;
}

}  // namespace

Metrics::State::Series Metrics::State::Find(const MetricDef& def, Labels labels) {
  OCTAVO_CHECK(labels.size() == LabelCount(def));
  MutexLock lock(mutex);
  Key key(&def, std::vector<std::string>(labels.begin(), labels.end()));
  auto found = series.find(key);
  if (found == series.end() && series_count[&def] >= kSeriesPerMetricMax && labels.size() > 0) {
    for (std::string& value : key.second) value = "other";
    found = series.find(key);
  }
  if (found != series.end()) return found->second;
  ++series_count[&def];
  std::map<std::string, std::string> names;
  for (size_t i = 0; i < key.second.size(); ++i) {
    names[std::string(def.labels[i])] = key.second[i];
  }
  const std::string name(def.name);
  const std::string help(def.help);
  Series made;
  switch (def.type) {
    case MetricType::kCounter:
      made.counter =
          &prometheus::BuildCounter().Name(name).Help(help).Register(*registry).Add(names);
      break;
    case MetricType::kGauge:
      made.gauge = &prometheus::BuildGauge().Name(name).Help(help).Register(*registry).Add(names);
      break;
    case MetricType::kHistogram:
      made.histogram = &prometheus::BuildHistogram().Name(name).Help(help).Register(*registry).Add(
          names, prometheus::Histogram::BucketBoundaries(def.buckets.begin(), def.buckets.end()));
      break;
  }
  series.emplace(std::move(key), made);
  return made;
}

Metrics::Metrics(MetricHome home, std::string_view program) : state_(std::make_unique<State>()) {
  for (const MetricDef* def : metric::kAllMetrics) {
    const bool shown = def->home == home || def->home == MetricHome::kBoth;
    if (shown && LabelCount(*def) == 0) state_->Find(*def, {});
  }
  Set(metric::kBuildInfo, 1, {kVersion, program});
}

Metrics::~Metrics() = default;

void Metrics::Add(const MetricDef& def, double by, Labels labels) {
  OCTAVO_CHECK(def.type == MetricType::kCounter);
  state_->Find(def, labels).counter->Increment(by);
}

void Metrics::Set(const MetricDef& def, double value, Labels labels) {
  OCTAVO_CHECK(def.type == MetricType::kGauge);
  state_->Find(def, labels).gauge->Set(value);
}

void Metrics::Shift(const MetricDef& def, double by, Labels labels) {
  OCTAVO_CHECK(def.type == MetricType::kGauge);
  state_->Find(def, labels).gauge->Increment(by);
}

void Metrics::Observe(const MetricDef& def, double value, Labels labels) {
  OCTAVO_CHECK(def.type == MetricType::kHistogram);
  state_->Find(def, labels).histogram->Observe(value);
}

void Metrics::ObserveMany(const MetricDef& def, std::span<const uint64_t> counts, double sum,
                          Labels labels) {
  OCTAVO_CHECK(def.type == MetricType::kHistogram && counts.size() == def.buckets.size() + 1);
  state_->Find(def, labels)
      .histogram->ObserveMultiple(std::vector<double>(counts.begin(), counts.end()), sum);
}

double Metrics::ValueOf(const MetricDef& def, Labels labels) const {
  const State::Series series = state_->Find(def, labels);
  if (series.counter != nullptr) return series.counter->Value();
  if (series.gauge != nullptr) return series.gauge->Value();
  return static_cast<double>(series.histogram->Collect().histogram.sample_count);
}

double Metrics::SumOf(const MetricDef& def, Labels labels) const {
  OCTAVO_CHECK(def.type == MetricType::kHistogram);
  return state_->Find(def, labels).histogram->Collect().histogram.sample_sum;
}

void Metrics::UpdateMemory() {
  const MemoryUse use = ReadMemoryUse();
  Set(metric::kRss, static_cast<double>(use.resident));
  Set(metric::kRssPeak, static_cast<double>(use.peak));
}

MemoryUse ReadMemoryUse() {
  MemoryUse use;
  std::FILE* file = std::fopen("/proc/self/status", "re");
  if (file == nullptr) return use;
  char line[256];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    unsigned long long kib = 0;
    if (std::sscanf(line, "VmRSS: %llu", &kib) == 1) use.resident = kib * 1024;
    if (std::sscanf(line, "VmHWM: %llu", &kib) == 1) use.peak = kib * 1024;
  }
  std::fclose(file);
  return use;
}

}  // namespace octavo
