#pragma once

// UNIT_HESSIAN and UNIT_SOLVE: from what a layer's linear layers read (kept by UNIT_CALIBRATE) over
// leaves of Hessians to codes and scales in the output. Private to worker/stage.
//
// An expert that saw fewer tokens than four times its channels is solved under a Hessian that is
// shrunk towards the mean of its layer's experts; one that saw fewer than a quarter of its channels
// is rounded to nearest. The receipt says so.

#include <stop_token>

#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "octavo/v1/task.pb.h"
#include "worker/stage/layer_cache.h"

namespace octavo {

// Borrows its memory from `memory`. Errors as QuantizeStage::Run and FactorHessian; kFenced where
// the scratch folder is gone.
absl::StatusOr<v1::Receipt> RunSolve(const v1::Task& task, Isa isa, int threads, LayerCache* memory,
                                     const std::stop_token& stop);

}  // namespace octavo
