#pragma once

// The tasks that calibrate: one micro-batch through one layer (here), and solving a layer's
// matrices under what was seen (solve.h), or measuring what quantizing them would do (sense.h).
//
// UNIT_CALIBRATE and UNIT_PROPAGATE: Reads the residual stream that the layer
// before left in the job's scratch folder (the first layer: rows of the embedding), runs the layer
// with the decoder that serves, in BF16 or as it was quantized, observes what its linear layers
// read and what a cache stores, and leaves the residual stream for the next layer, the statistics
// and what Hessians are made of (core/plan/scratch_files.h).
//
// Doing a task again leaves the same bytes. Errors as QuantizeStage; kNonFinite names layer and
// sample.

#include <cstdint>
#include <memory>
#include <stop_token>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

class CalibrateStage {
 public:
  struct Options {
    uint64_t memory_bytes = 256u << 20;  // bound over layers, activations, Hessians of all Runs
    int threads = 1;                     // that load a layer, or solve
    Isa isa = Isa::kReference;
  };
  explicit CalibrateStage(const Options& options);
  ~CalibrateStage();

  // Whether a unit's tasks belong here, and not to QuantizeStage.
  static bool Does(v1::UnitKind kind);

  // Does one task on the calling thread; several may run at once, and share a layer's weights.
  // Waits until they fit the budget. The receipt may be sent after a SyncTouched
  // that began after Run returned.
  absl::StatusOr<v1::Receipt> Run(const v1::Task& task, std::stop_token stop);

  // fdatasync of every file that finished Runs left since the last call.
  absl::Status SyncTouched();

  // Layers are kept for the next task; this gives back those that no task uses.
  void DropIdle();

  uint64_t bytes_in_use() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace octavo
