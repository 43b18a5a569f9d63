#pragma once

// The part of a plan that goes layer after layer: GPTQ, SparseGPT and smoothing (smooth_plan.h).
//
// A layer takes three phases:
//   1  UNIT_CALIBRATE  micro-batches go through the source's layer; what its linear layers read is
//                      kept for Hessians, and its largest magnitudes for smoothing
//   2  UNIT_HESSIAN    leaves of the Hessians of all points of the layer; of experts' points
//                      the mean that Hessians of few tokens are shrunk towards
//      UNIT_SMOOTH     powers of two for each smoothed point
//   3  UNIT_SOLVE      one for every Hessian: all weights that read the same thing
//      UNIT_CAST       the same, of smoothed weights without a solver
//      UNIT_SCALES     static scales of the layer (calibration_plan.h)
// By default a layer sees what the quantized layers below it give: the first phase of a layer then
// begins with UNIT_PROPAGATE, which takes the micro-batches through the layer before as it lies in
// the staging folder. With `propagate: source` a UNIT_CALIBRATE hands on what the source's layer
// gives. Within a phase everything is independent, so that workers share it; nothing depends on how
// many there are.

#include <cstdint>

#include "absl/status/status.h"
#include "coordinator/planner/plan_parts.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

// Appends the units of all layers, marks what they write in `layout`, and fills
// calibration.solved_layers and kept_bytes. REQUIRES: no units yet, plan->calibration() and
// plan->recipe() set. kUnsupported where the decoder does not compute the quantized layers;
// kBadRecipe as SmoothedPoints.
absl::Status AddSolveUnits(const Checkpoint& checkpoint, Layout* layout, v1::Plan* plan);

// The third phase of a layer.
uint32_t WeightsPhaseOf(int32_t layer);

// What one micro-batch keeps at most at the points of a layer: calibration.kept_bytes. Of plans
// that solve or measure.
uint64_t KeptBytesOfBatch(const v1::Plan& plan);
// Disk of the Hessians and of what is kept for them, of the layer that needs most; 0 where
// nothing is solved or measured.
uint64_t SolveSpillBytes(const v1::Plan& plan);
// Memory of the largest UNIT_HESSIAN or UNIT_SOLVE.
uint64_t SolveMemoryBytes(const v1::Plan& plan);

}  // namespace octavo
