#pragma once

// The coordinator's side of a calibrated job's scratch folder (core/plan/scratch_files.h): it makes
// the folder, puts the token ids there, and tells after a crash what of it is still whole.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "octavo/v1/job.pb.h"
#include "octavo/v1/plan.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// kBadRequest unless the set's lengths, ids and digest belong together and a recipe that calibrates
// has a set, and only such a recipe.
absl::Status CheckCalibrationSet(const v1::QuantizeRequest& request);

// Makes the folder and its file of ids; keeps what an earlier run left. No-op for other jobs.
absl::Status StageScratch(const v1::Job& job, const v1::Plan& plan, std::string_view ids);

// Moves the receipts of micro-batches whose files are not all there from `receipts` to `dropped`:
// every statistic, and the activations that the next layer needs.
void DropBrokenBatches(const v1::Job& job, const v1::Plan& plan, std::vector<v1::Receipt>* receipts,
                       std::vector<uint32_t>* dropped);

}  // namespace octavo
