#pragma once

// One model on one GPU: weights, cache and the forward pass, as ModelRunner
// (worker/runner/runner.h) has them on a CPU, from the same plan and the same steps. Every rounding
// is the CPU's; the order of sums inside products and attention is the GPU's own (docs/gpu.md), so
// that logits differ from the CPU's in their last bits. A sequence's logits depend neither on the
// other sequences of a step, nor on how it is cut into steps, nor on its pages.
//
// Without a GPU, on the host twin of kernels/cuda/simt, this is a test of the kernels' composition.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "octavo/v1/engine.pb.h"
#include "octavo/v1/plan.pb.h"
#include "worker/runner/runner.h"

namespace octavo {

class GpuModel {
 public:
  // Errors as ModelRunner::Load; kUnsupported where gpu_weights.h says so, and heads wider than 128
  // or no multiple of 16. `threads` read and check the files.
  static absl::StatusOr<std::unique_ptr<GpuModel>> Load(const std::string& dir,
                                                        const v1::ServePlan& plan, int threads);
  ~GpuModel();

  // As ModelRunner::Run; residual streams are not kept.
  absl::Status Run(const v1::Step& step, Logits* out);

 private:
  struct State;
  explicit GpuModel(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace octavo
