#pragma once

// UNIT_SMOOTH: from what a layer's micro-batches showed and its weights to powers of two
// (worker/quant/smooth.h). They lie in a file of the scratch folder, which whoever reads a piece
// with a fold takes them from; the norm, and layers that stay in their own type, are written here.
// Private to worker/stage.

#include <stop_token>

#include "absl/status/statusor.h"
#include "octavo/v1/task.pb.h"
#include "worker/quant/smooth.h"
#include "worker/stage/layer_cache.h"

namespace octavo {

// Borrows its memory from `memory`. Errors as UnitRun and AddColumnAmax; kFenced where the scratch
// folder is gone; kCorrupted for statistics that are none.
absl::StatusOr<v1::Receipt> RunSmooth(const v1::Task& task, LayerCache* memory,
                                      const std::stop_token& stop);

// The exponents of a fold, as its UNIT_SMOOTH left them.
absl::StatusOr<Exponents> ReadFold(const v1::Task& task, const v1::Fold& fold);

}  // namespace octavo
