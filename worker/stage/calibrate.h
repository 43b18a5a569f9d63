#pragma once

// The calibrating task: one micro-batch through one layer. Reads the residual stream that the layer
// before left in the job's scratch folder (the first layer: rows of the embedding), runs the layer
// in BF16 with the decoder that serves, observes what its linear layers read and what a cache
// stores, and leaves the residual stream for the next layer and the statistics
// (core/plan/scratch_files.h).
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
    uint64_t memory_bytes = 256u << 20;  // bound over layers and activations of all Runs at once
    int threads = 1;                     // that load a layer
    Isa isa = Isa::kReference;
  };
  explicit CalibrateStage(const Options& options);
  ~CalibrateStage();

  // Does one UNIT_CALIBRATE task on the calling thread; several may run at once, and share a
  // layer's weights. Waits until they fit the budget. The receipt may be sent after a SyncTouched
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
