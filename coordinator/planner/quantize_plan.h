#pragma once

// The plan of a quantization job: every output byte range, unit and phase, known before the first
// weight is read. Pure: the same headers and recipe give the same bytes of Plan on any host.
//
// Output files mirror the source's shards: model.safetensors, or model-00001-of-0000n.safetensors
// in the order of the source files' names; a tensor stays in its shard and its scale goes beside
// it. Units follow the source's byte order, so that a run of units is a sequential read.
//
// A head that is the embedding, and that the recipe quantizes, becomes a tensor of its own in the
// embedding's shard (core/checkpoint/untied_head.h).
//
// Phases: everything that needs no joint scale, or whose tie group fits one unit, is in phase 0.
// Larger groups give UNIT_STAT_AMAX units in phase 0, then UNIT_CAST in phase 1 (absmax), or
// UNIT_STAT_MSE in phase 1 and UNIT_CAST in phase 2 (mse). Calibrating recipes have UNIT_CALIBRATE
// units in phase 0, before all others, and UNIT_SCALES units in a last phase of their own.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "octavo/v1/job.pb.h"
#include "octavo/v1/plan.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

struct Checkpoint;

// Headers only. kBadRecipe where the recipe is illegal for this model, kUnsupported where the
// source is already quantized. `calibration`: only its lengths and digest are looked at, and only
// where the recipe has static scales (calibration_plan.h). The plan's recipe is RecipeFor of it.
absl::StatusOr<v1::Plan> BuildPlan(const Checkpoint& checkpoint, const v1::Recipe& recipe,
                                   const v1::CalibrationSet& calibration = {});

// XXH3-128 of the plan's deterministic bytes, as hex: equal for equal plans.
std::string PlanDigest(const v1::Plan& plan);

// Units in each phase; its size is the number of phases.
std::vector<uint32_t> UnitsPerPhase(const v1::Plan& plan);

// True when all units of the phases before `unit`'s are done. done_per_phase counts finished units.
bool UnitReady(const v1::Plan& plan, std::span<const uint32_t> units_per_phase,
               std::span<const uint32_t> done_per_phase, uint32_t unit);

// Joint statistics of all tie groups, ascending, as far as the phases up to and including `phase`
// tell them. `receipts`: one of every unit of these phases that reports statistics, in any order;
// others are ignored, duplicates of a unit are not allowed. Error sums merge over Tree in the order
// (unit, piece). Empty where the plan has no such phases.
std::vector<v1::TieStat> MergeStats(const v1::Plan& plan, uint32_t phase,
                                    std::span<const v1::Receipt> receipts);

// Where a calibrated job keeps token ids, activations and statistics: beside its staging folder.
std::string ScratchDirOf(const std::string& staging_dir);

// The task for unit `unit`. `stats` as MergeStats returned them for the phase before the unit's
// (empty for phase 0). Takes folders and source identities from the job.
v1::Task MakeTask(const v1::Job& job, const v1::Plan& plan, uint32_t unit, uint64_t epoch,
                  std::span<const v1::TieStat> stats);

}  // namespace octavo
