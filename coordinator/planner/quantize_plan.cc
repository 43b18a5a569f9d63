#include "coordinator/planner/quantize_plan.h"

#include <algorithm>
#include <map>
#include <set>

#include "coordinator/planner/calibration_plan.h"
#include "coordinator/planner/plan_parts.h"
#include "coordinator/planner/publish.h"
#include "coordinator/planner/solve_plan.h"
#include "coordinator/report/report.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/untied_head.h"
#include "core/scheme/legality.h"
#include "core/store/local_store.h"
#include "core/tensor/bare/tree.h"

namespace octavo {
namespace {

// Sums of equal length, merged over Tree in the order given.
std::vector<double> TreeSum(std::vector<std::vector<double>> sums) {
  for (const MergeStep& step : MergeSteps(static_cast<int>(sums.size()))) {
    for (size_t i = 0; i < sums[step.into].size(); ++i) sums[step.into][i] += sums[step.from][i];
  }
  return sums.empty() ? std::vector<double>() : std::move(sums.front());
}

// What the units of a calibrated job need beside the unit.
void AddCalibration(const v1::Job& job, const v1::Plan& plan, v1::Task* task) {
  const v1::CalibrationPlan& calibration = plan.calibration();
  const v1::Unit& unit = task->unit();
  task->set_scratch_dir(ScratchDirOf(job.staging_dir()));
  if (unit.kind() == v1::UNIT_SCALES) {
    *task->mutable_calibration() = plan.recipe().calibration();
    task->set_batch_count(static_cast<uint32_t>(calibration.batches_size()));
  }
  if (unit.has_hessian() || unit.kind() == v1::UNIT_SMOOTH) {
    *task->mutable_solve()->mutable_batches() = calibration.batches();
  }
  const bool propagates = unit.kind() == v1::UNIT_PROPAGATE;
  if (unit.kind() != v1::UNIT_CALIBRATE && !propagates) return;
  v1::CalibrateTask& own = *task->mutable_calibrate();
  const auto& layers = propagates ? calibration.solved_layers() : calibration.layers();
  *own.mutable_layer() = layers[static_cast<int>(unit.layer())];
  *own.mutable_batch() = calibration.batches(static_cast<int>(unit.batch()));
  for (uint32_t i = own.batch().sample_begin(); i < own.batch().sample_end(); ++i) {
    own.add_sample_lengths(calibration.sample_lengths(static_cast<int>(i)));
  }
  own.set_observer(plan.recipe().calibration().observer());
  own.set_expert_quota(ExpertQuotaOfSample(plan));
  if (!unit.kept_points().empty()) own.set_kept_bytes(calibration.kept_bytes());
  own.set_last(!propagates &&
               (!calibration.solved_layers().empty() ||
                unit.layer() + 1 == static_cast<uint32_t>(calibration.layers_size())));
  std::set<std::string_view> files;
  for (const v1::RankTensor& tensor : own.layer().ranks(0).tensors()) {
    if (!propagates) files.insert(tensor.tensor().spec().file());
  }
  if (unit.layer() == 0) {
    *own.mutable_embedding() = calibration.embedding();
    files.insert(own.embedding().file());
  }
  for (const v1::SourceFile& file : job.sources()) {
    if (files.contains(file.name())) *task->add_sources() = file;
  }
}

// `adapted`: experts have inputs that were not asked for (RecipeFor).
void AddWarnings(const Checkpoint& checkpoint, std::span<const TensorScheme> schemes, bool adapted,
                 v1::Plan* plan) {
  auto warn = [&](const v1::TensorSpec& spec, std::string text) {
    v1::Warning* warning = plan->add_warnings();
    warning->set_tensor(spec.name());
    warning->set_text(std::move(text));
  };
  for (size_t i = 0; i < schemes.size(); ++i) {
    if (schemes[i].scheme == nullptr) continue;
    const v1::ModelTensor& tensor = checkpoint.tensors[i];
    if (adapted && tensor.role() == v1::EXPERT_GATE) {
      warn(tensor.spec(),
           "experts are written with FP8 inputs per token: no reader has experts with FP8 weights "
           "alone; where there is no FP8 in hardware, vLLM runs them on their weights alone");
      adapted = false;  // once
    }
    std::string text =
        DimensionWarning(*schemes[i].scheme, tensor.spec().shape(0), tensor.spec().shape(1));
    if (!text.empty()) warn(tensor.spec(), std::move(text));
    if (tensor.role() != v1::LM_HEAD) continue;
    warn(tensor.spec(),
         "an eight-bit output head: vLLM 0.32 and transformers with compressed-tensors 0.19 take "
         "it, older ones may not");
  }
}

absl::StatusOr<v1::Plan> PlanOf(const Checkpoint& checkpoint, const v1::Recipe& asked,
                                const v1::CalibrationSet& calibration) {
  v1::Plan plan;
  *plan.mutable_model() = checkpoint.model;
  *plan.mutable_recipe() = RecipeFor(asked, checkpoint.tensors);
  const v1::Recipe& recipe = plan.recipe();
  OCTAVO_ASSIGN_OR_RETURN(const auto schemes, ResolveSchemes(recipe, checkpoint.tensors));
  OCTAVO_ASSIGN_OR_RETURN(Layout layout, LayOutFiles(checkpoint, recipe, schemes, &plan));
  if (recipe.has_calibration()) {
    OCTAVO_ASSIGN_OR_RETURN(*plan.mutable_calibration(),
                            PlanCalibration(checkpoint, calibration, recipe.compat()));
    if (IsLayerwise(recipe)) {
      OCTAVO_RETURN_IF_ERROR(AddSolveUnits(checkpoint, &layout, &plan));
    } else {
      AddCalibrateUnits(&plan);
    }
  }
  CutUnits(layout.tensors, &plan);
  AddScaleUnits(layout.scales, &plan);

  std::set<std::string> taken = {kManifestName, kCardName, kReportName, kReportPageName};
  for (const v1::OutputFile& output : plan.outputs()) taken.insert(output.name());
  for (const v1::SourceFile& file : checkpoint.files) {
    v1::SourceFile* source = plan.add_sources();
    *source = file;
    source->set_mtime_ns(0);
  }
  const LocalStore store;
  for (const std::string& name : checkpoint.side_files) {
    if (taken.contains(name)) continue;
    OCTAVO_ASSIGN_OR_RETURN(*plan.add_side_files(), IdentifySideFile(store, checkpoint.dir, name));
    plan.mutable_side_files(plan.side_files_size() - 1)->set_mtime_ns(0);
  }

  AddWarnings(checkpoint, schemes, recipe.rules_size() > asked.rules_size(), &plan);
  uint64_t bytes = 0;
  for (const v1::OutputFile& output : plan.outputs()) bytes += output.size();
  for (const v1::SourceFile& file : plan.side_files()) bytes += file.size();
  plan.set_output_bytes(bytes);
  return plan;
}

}  // namespace

std::string ScratchDirOf(const std::string& staging_dir) { return staging_dir + ".calibration"; }

absl::StatusOr<v1::Plan> BuildPlan(const Checkpoint& checkpoint, const v1::Recipe& recipe,
                                   const v1::CalibrationSet& calibration) {
  if (checkpoint.quantized) {
    return MakeError(Reason::kUnsupported, "the source is already quantized",
                     {.file = "config.json"},
                     "Give the BF16, F16 or F32 original, or what `octavo dequantize` makes of it");
  }
  if (!checkpoint.model.tied_embeddings() || !QuantizesHead(recipe)) {
    return PlanOf(checkpoint, recipe, calibration);
  }
  OCTAVO_ASSIGN_OR_RETURN(const Checkpoint untied, WithHeadOfItsOwn(checkpoint));
  OCTAVO_ASSIGN_OR_RETURN(v1::Plan plan, PlanOf(untied, recipe, calibration));
  plan.add_warnings()->set_text(
      "the source's head is its embedding: the output has a head of its own beside it, and "
      "tie_word_embeddings becomes false");
  return plan;
}

std::string PlanDigest(const v1::Plan& plan) { return DigestOf(plan.SerializeAsString()).Hex(); }

std::vector<uint32_t> UnitsPerPhase(const v1::Plan& plan) {
  std::vector<uint32_t> counts;
  for (const v1::Unit& unit : plan.units()) {
    if (unit.phase() >= counts.size()) counts.resize(unit.phase() + 1);
    ++counts[unit.phase()];
  }
  return counts;
}

bool UnitReady(const v1::Plan& plan, std::span<const uint32_t> units_per_phase,
               std::span<const uint32_t> done_per_phase, uint32_t unit) {
  for (uint32_t phase = 0; phase < plan.units(static_cast<int>(unit)).phase(); ++phase) {
    if (done_per_phase[phase] < units_per_phase[phase]) return false;
  }
  return true;
}

std::vector<v1::TieStat> MergeStats(const v1::Plan& plan, uint32_t phase,
                                    std::span<const v1::Receipt> receipts) {
  std::vector<const v1::Receipt*> ordered;
  for (const v1::Receipt& receipt : receipts) ordered.push_back(&receipt);
  std::sort(ordered.begin(), ordered.end(),
            [](const v1::Receipt* a, const v1::Receipt* b) { return a->unit_id() < b->unit_id(); });
  struct Merged {
    uint32_t amax_bits = 0;
    std::vector<std::vector<double>> errors;  // by (unit, piece)
  };
  std::map<uint32_t, Merged> merged;
  for (const v1::Receipt* receipt : ordered) {
    const v1::Unit& unit = plan.units(static_cast<int>(receipt->unit_id()));
    if (unit.phase() > phase) continue;
    for (const v1::PieceStat& stat : receipt->stats()) {
      Merged& group = merged[stat.tie_group()];
      if (unit.kind() == v1::UNIT_STAT_AMAX) {
        group.amax_bits = std::max(group.amax_bits, stat.amax_bits());
      } else if (unit.kind() == v1::UNIT_STAT_MSE) {
        group.errors.emplace_back(stat.mse_errors().begin(), stat.mse_errors().end());
      }
    }
  }
  std::vector<v1::TieStat> stats;
  for (auto& [tie_group, group] : merged) {
    v1::TieStat& stat = stats.emplace_back();
    stat.set_tie_group(tie_group);
    stat.set_amax_bits(group.amax_bits);
    const std::vector<double> errors = TreeSum(std::move(group.errors));
    stat.mutable_mse_errors()->Add(errors.begin(), errors.end());
  }
  return stats;
}

v1::Task MakeTask(const v1::Job& job, const v1::Plan& plan, uint32_t unit, uint64_t epoch,
                  std::span<const v1::TieStat> stats) {
  v1::Task task;
  task.set_job_id(job.id());
  task.set_epoch(epoch);
  *task.mutable_unit() = plan.units(static_cast<int>(unit));
  task.set_source_dir(job.request().source_dir());
  task.set_staging_dir(job.staging_dir());
  std::set<uint32_t> ties;
  std::set<std::string_view> files;
  for (const v1::Piece& piece : task.unit().pieces()) {
    files.insert(piece.source().file());
    if (piece.tie_group() >= 0) ties.insert(static_cast<uint32_t>(piece.tie_group()));
  }
  for (const v1::TieStat& stat : stats) {
    if (ties.contains(stat.tie_group())) *task.add_tie_stats() = stat;
  }
  for (const v1::SourceFile& file : job.sources()) {
    if (files.contains(file.name())) *task.add_sources() = file;
  }
  for (const v1::OutputFile& output : plan.outputs()) task.add_output_names(output.name());
  task.set_compat(plan.recipe().compat());
  if (plan.has_calibration()) AddCalibration(job, plan, &task);
  return task;
}

}  // namespace octavo
