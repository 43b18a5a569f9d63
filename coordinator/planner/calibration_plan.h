#pragma once

// The part of a plan that calibrates: which samples go through a layer together, and the units that
// take them there.
//
// Micro-batch b of layer l comes after micro-batch b of layer l - 1 and after nothing else, so
// layers work in parallel on different micro-batches. Micro-batches do not depend on the cluster:
// at least kBatchesMin where there are as many samples, at most kBatchTokensMax tokens each but for
// longer samples; one sample each where a compatibility mode has to know what a sample saw.

#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "octavo/v1/job.pb.h"
#include "octavo/v1/plan.pb.h"

namespace octavo {

struct Checkpoint;

inline constexpr uint64_t kBatchTokensMax = 1024;
inline constexpr uint64_t kBatchesMin = 32;
inline constexpr uint64_t kCalibrationTokensMax = 64u << 20;

// kBadRequest: no samples, an empty one, one longer than the model's positions, more than
// kCalibrationTokensMax tokens. kUnsupported where the decoder does not compute this model.
absl::StatusOr<v1::CalibrationPlan> PlanCalibration(const Checkpoint& checkpoint,
                                                    const v1::CalibrationSet& set,
                                                    v1::Compat compat = v1::COMPAT_NONE);

// Appends a UNIT_CALIBRATE of phase 0 for every layer and micro-batch, layer by layer. REQUIRES: no
// units yet, plan->calibration() set.
void AddCalibrateUnits(v1::Plan* plan);

// Appends one UNIT_SCALES for every layer that has static scales, in a phase after all others.
void AddScaleUnits(std::span<const v1::StaticScale> scales, v1::Plan* plan);

// Disk that a calibrated job's scratch folder takes at most: activations between layers, ids,
// statistics, and of one layer what solving needs.
uint64_t SpillBytes(const v1::Plan& plan);

// Memory of one task of the longest micro-batch: with its layer's matrices read as they are needed,
// and with the largest layer in memory.
struct CalibrateMemory {
  uint64_t streamed = 0;
  uint64_t resident = 0;
};
CalibrateMemory CalibrateBytes(const v1::Plan& plan);

// The quota of tokens for every expert, by the recipe or its compatibility mode, as the share of
// one sample.
uint32_t ExpertQuotaOfSample(const v1::Plan& plan);

// The unit of the same phase that `unit`, a UNIT_CALIBRATE, comes after: the one that gives what
// goes into it. Nothing for the first layer's, and where an earlier phase gives it.
std::optional<uint32_t> UnitBefore(const v1::Plan& plan, const v1::Unit& unit);

}  // namespace octavo
