#pragma once

// UNIT_SENSE: what quantizing all weights that read the same thing does to what they give, over
// what UNIT_CALIBRATE kept. Nothing is written. Private to worker/stage.
//
// Tokens go in parts of kSenseTokens: of a dense layer those of the unit, of an expert all that it
// saw. Its weights are read and rounded once for every part.

#include <stop_token>

#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "octavo/v1/task.pb.h"
#include "worker/stage/layer_cache.h"

namespace octavo {

// Borrows its memory from `memory`. Errors as QuantizeStage::Run and MeasuringQuantizer; kFenced
// where the scratch folder is gone.
absl::StatusOr<v1::Receipt> RunSense(const v1::Task& task, Isa isa, int threads, LayerCache* memory,
                                     const std::stop_token& stop);

}  // namespace octavo
