#pragma once

// The machine's rates as `octavo-worker probe --json` measures them now (worker/device/probe.h says
// what each is).

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/planner/estimate.h"

namespace octavo {

struct ProbeRates {
  std::string isa;
  int threads = 1;
  // Bytes per second; "all" means by all threads together.
  double disk_read = 0, disk_write = 0, disk_both = 0;
  double page_cache_read_core = 0, page_cache_read_all = 0;
  double digest_core = 0, digest_all = 0;
  double cast_core = 0, cast_all = 0;
  double memory_read_all = 0;
  double fma_flops_core = 0;
  double fma_flops_all = 0;
};

// Runs the probe on the file system of `dir`, for about `seconds`.
absl::StatusOr<ProbeRates> Probe(const std::string& dir, double seconds);

// The higher of each rate: a yardstick measured while something else ran flatters what is measured
// against it.
ProbeRates Best(const ProbeRates& a, const ProbeRates& b);

// What `octavo plan` reckons with.
MachineRates RatesForPlans(const ProbeRates& probe);

}  // namespace octavo
