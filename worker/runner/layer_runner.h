#pragma once

// One layer of a model, run over whole samples with the decoder that serves: what calibration sends
// activations through. The same bits for any grouping of samples, instruction set and number of
// threads (docs/numerics.md).

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/plan/layer_plan.h"
#include "kernels/isa.h"
#include "octavo/v1/plan.pb.h"
#include "worker/runner/observe.h"
#include "worker/runner/weights.h"

namespace octavo {

class LayerRunner {
 public:
  struct Options {
    // Streamed matrices are read for every Run: far less memory for far more reading.
    Residency residency = Residency::kResident;
    uint64_t stream_bytes = kWeightStreamBytes;  // of a matrix in memory at a time, while streamed
    int threads = 1;  // that load the weights; also those of a Run where weights are streamed
    Isa isa = Isa::kReference;
  };
  struct Samples {
    std::span<const uint32_t> lengths;
    // Rows of each sample that every expert of a mixture is to see; 0: those routed to it.
    int64_t expert_quota = 0;
  };

  // Reads the weights of `plan`, one layer's (core/plan/layer_plan.h), from the checkpoint folder
  // `dir`. Errors as ModelRunner::Load.
  static absl::StatusOr<std::unique_ptr<LayerRunner>> Load(const std::string& dir,
                                                           const v1::ServePlan& plan,
                                                           const Options& options);
  ~LayerRunner();

  // Takes samples through the layer. `x` is the residual stream, [sum of lengths][hidden] BF16, and
  // is replaced. `observe` sees what every linear layer reads, queries, keys and values as
  // projected, and the latter two as cached. Several threads may run at once. kNonFinite: an
  // activation overflowed; where weights are streamed also the errors of Load, and kCancelled when
  // stopped.
  absl::Status Run(const Samples& samples, uint16_t* x, const Observe& observe,
                   const std::stop_token& stop) const;

 private:
  struct State;
  explicit LayerRunner(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Rows `ids` of an embedding, as BF16, into `out` ([ids][hidden]). kBadData for an id outside
// it; otherwise errors as ModelRunner::Load.
absl::Status ReadEmbeddingRows(const std::string& dir, const v1::TensorSpec& embedding,
                               std::span<const int32_t> ids, uint16_t* out);

}  // namespace octavo
