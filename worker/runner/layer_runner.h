#pragma once

// One layer of a model, run over whole samples with the decoder that serves: what calibration sends
// activations through. The same bits for any grouping of samples, instruction set and number of
// threads (docs/numerics.md).

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "octavo/v1/plan.pb.h"
#include "worker/runner/observe.h"

namespace octavo {

class LayerRunner {
 public:
  struct Options {
    int threads = 1;  // that load the weights
    Isa isa = Isa::kReference;
  };

  // Reads the weights of `plan`, one layer's (core/plan/layer_plan.h), from the checkpoint folder
  // `dir`. Errors as ModelRunner::Load.
  static absl::StatusOr<std::unique_ptr<LayerRunner>> Load(const std::string& dir,
                                                           const v1::ServePlan& plan,
                                                           const Options& options);
  ~LayerRunner();

  // Takes samples of the given lengths through the layer, on the calling thread. `x` is the
  // residual stream, [sum of lengths][hidden] BF16, and is replaced. `observe` sees what every
  // linear layer reads, and keys and values as they are cached. Several threads may run at once.
  // kNonFinite: an activation overflowed.
  absl::Status Run(std::span<const uint32_t> lengths, uint16_t* x, const Observe& observe) const;

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
