#pragma once

// What calibrating costs, from a plan alone: for `octavo plan`, and for how much of a job
// is done.

#include <cstdint>

#include "octavo/v1/plan.pb.h"

namespace octavo {

// Operations (a multiplication and an addition are two) of one UNIT_CALIBRATE: products of the
// layer's matrices and attention. Tokens are taken to spread evenly over experts.
double CalibrateOperations(const v1::Plan& plan, const v1::Unit& unit);

// About how long a unit takes on one core of an ordinary machine, in seconds: units of a job
// compared with one another.
double UnitWork(const v1::Plan& plan, const v1::Unit& unit);

struct CalibrationCost {
  double operations = 0;        // of all units
  double longest_chain = 0;     // operations that come one after the other: a micro-batch's layers
  uint32_t batches = 0;         // as many units can run at once
  uint64_t weight_bytes = 0;    // of all layers, as they lie on disk
  uint64_t streamed_bytes = 0;  // read where no layer stays in memory: once per micro-batch
  uint64_t spilled_bytes = 0;   // activations written between layers, and read again
};
CalibrationCost CostOfCalibration(const v1::Plan& plan);

}  // namespace octavo
