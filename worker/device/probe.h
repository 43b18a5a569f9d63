#pragma once

// What this machine can do, measured in one run: the figures against which benchmarks set what
// Octavo does, and from which `plan` foretells how long a job takes.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/isa.h"

namespace octavo {

struct ProbeOptions {
  std::string dir = ".";  // where the disk is measured; holds an unlinked file for a moment
  double seconds = 4.0;   // for all measurements together, roughly
  uint64_t file_bytes = uint64_t{512} << 20;  // of that file, at most; less on a slow or full disk
  int threads = 0;                            // 0: one per processor this process may use
  Isa isa = BestIsa();
};

// Rates in bytes per second unless the name says otherwise. "core" is one thread, "all" the sum
// over ProbeResult::threads threads at once.
struct ProbeResult {
  Isa isa = Isa::kReference;
  int threads = 0;
  uint64_t disk_bytes = 0;  // how much was written and read

  double disk_write = 0;  // write by all threads, then fdatasync, both counted; the better
                          // of new blocks and of the same blocks again: thin disks give
                          // new ones slowly
  double disk_read = 0;   // after eviction from the page cache; the better of 1 and all
                          // threads
  double disk_both = 0;   // one half read while the other is written and synced: the sum
  double page_cache_read_core = 0;  // pread of cached bytes: what reading back costs
  double page_cache_read_all = 0;
  double digest_core = 0;  // XXH3-128 over memory
  double digest_all = 0;
  double cast_core = 0;  // source bytes: BF16 rows, amax, FP8 per-channel cast with error figures
  double cast_all = 0;
  double memory_read_core = 0;  // kProbeStreams address streams per thread
  double memory_read_all = 0;
  double fma_flops_core = 0;  // F32 operations per second
  double fma_flops_all = 0;
};

// Measures. Takes about options.seconds, at least about one second. Errors: kPermission,
// kOutputUnwritable, kDiskFull, kIo on the probe file; kOutOfMemory.
absl::StatusOr<ProbeResult> RunProbe(const ProbeOptions& options);

// One line of JSON, keys as the members above with their units appended.
std::string ToJson(const ProbeResult& result);

}  // namespace octavo
