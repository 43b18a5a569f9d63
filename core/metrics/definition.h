#pragma once

// What a metric is made of: name, help, type, labels, buckets. The metrics themselves are in
// coordinator_names.h and worker_names.h, and all of them in names.h.

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

namespace octavo {

enum class MetricType { kCounter, kGauge, kHistogram };

// The programs that show a metric from their start on (at 0), before anything happened.
enum class MetricHome { kCoordinator, kWorker, kBoth };

struct MetricDef {
  std::string_view name;
  std::string_view help;
  MetricType type = MetricType::kCounter;
  MetricHome home = MetricHome::kBoth;
  std::array<std::string_view, 3> labels = {};  // unused ones empty
  std::span<const double> buckets = {};         // upper bounds, ascending; histograms only
};

namespace metric {

// Upper bounds in seconds. Collectives; steps and inter-token gaps; queueing and first tokens;
// whole requests; units of work.
inline constexpr double kCollectiveBuckets[] = {0.000005, 0.00001, 0.00002, 0.00005, 0.0001,
                                                0.0002,   0.0005,  0.001,   0.002,   0.005,
                                                0.01,     0.05,    0.2,     1,       5};
inline constexpr double kStepBuckets[] = {0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008,
                                          0.01,   0.015, 0.02,   0.03,  0.04,  0.06,  0.08,  0.1,
                                          0.15,   0.2,   0.3,    0.5,   1,     2.5};
inline constexpr double kWaitBuckets[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                          1,     2.5,    5,     10,   30,    60,   120, 300};
inline constexpr double kRequestBuckets[] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,   2.5,
                                             5,    10,    30,   60,  120,  300, 600, 1800};
inline constexpr double kUnitBuckets[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                          0.25,  0.5,    1,     2.5,  5,     10,   30};
inline constexpr double kTokenBuckets[] = {
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072};

using enum MetricType;
using enum MetricHome;

}  // namespace metric
}  // namespace octavo
