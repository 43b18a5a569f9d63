#pragma once

// What `octavo plan` prints: sizes from the plan, time from rates measured earlier.

#include <cstdint>
#include <optional>
#include <string>

#include "octavo/v1/plan.pb.h"

namespace octavo {

// Bytes per second of this machine, where nothing else is said; 0: not measured.
struct MachineRates {
  double read = 0;           // cold sequential reading
  double write = 0;          // write with fdatasync
  double disk = 0;           // both at once, their bytes added
  double cast = 0;           // source bytes cast, one core
  double verify = 0;         // digest and read-back, one core
  double products_core = 0;  // multiplications and additions per second: one core, all cores
  double products_all = 0;
  int cores = 1;
};

// Who does a job.
struct Workforce {
  int workers = 1;
  uint64_t memory_bytes = 1u << 30;  // of each
  // False: all on the measured machine. True: each on a machine like it; all share one storage, as
  // fast for all together as the measured disk.
  bool own_machines = false;
};

struct Estimate {
  uint32_t units = 0;
  uint32_t phases = 0;
  uint64_t source_bytes = 0;      // read once, by copies and casts
  uint64_t reread_bytes = 0;      // read again for joint scales
  uint64_t output_bytes = 0;      // the whole folder
  uint64_t disk_bytes = 0;        // free space needed beside the output
  uint64_t unit_bytes_max = 0;    // largest buffers of one unit in flight
  uint64_t memory_bytes_min = 0;  // smallest --memory of a worker
  uint64_t quantized_tensors = 0;
  uint64_t kept_tensors = 0;
  std::optional<double> seconds;  // nothing without rates
  // "read", "write", "disk", "cast", "verify"; of calibrated jobs "disk", "compute", "layers" (one
  // after the other) or "micro-batches" (no more at once); empty without rates
  std::string limit;
  // Calibrated jobs. Below this --memory, layers are read again for every micro-batch.
  uint64_t memory_bytes_resident = 0;
  double operations = 0;            // multiplications and additions
  uint64_t layer_reread_bytes = 0;  // weights read for calibration
};

Estimate EstimateJob(const v1::Plan& plan, const MachineRates& rates, const Workforce& force);

}  // namespace octavo
