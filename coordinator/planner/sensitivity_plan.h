#pragma once

// The plan of a job that measures (`octavo sensitivity`): what a recipe would do to the output of
// every linear layer, on the source's activations. It has no output files; what it is for comes
// back in receipts (v1::OutputError) and is published as octavo_sensitivity.json.
//
// A layer takes two phases, as with `propagate: source` where layers are solved:
//   UNIT_CALIBRATE  micro-batches go through the source's layer; what its linear layers read is
//   kept UNIT_SENSE      all weights that read the same thing: of a dense layer one for every 1,024
//                   tokens, of a mixture's expert one for all that it saw

#include <cstdint>

#include "absl/status/statusor.h"
#include "octavo/v1/job.pb.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

struct Checkpoint;

// `recipe` without the calibration that it may have; `measure` in its place: coverage of experts is
// looked at. Solvers are left out: rounding to nearest under the recipe's scales is what is
// measured. Errors: as BuildPlan and PlanCalibration; kUnsupported for SparseGPT, which drops
// weights, for smoothing, and where the recipe quantizes nothing.
absl::StatusOr<v1::Plan> BuildSensitivityPlan(const Checkpoint& checkpoint,
                                              const v1::Recipe& recipe,
                                              const v1::Calibration& measure,
                                              const v1::CalibrationSet& calibration);

// Memory of the largest UNIT_SENSE.
uint64_t SenseMemoryBytes(const v1::Plan& plan);

// Operations of a UNIT_SENSE: two or four products for every token.
double SenseOperations(const v1::Plan& plan, const v1::Unit& unit);

}  // namespace octavo
