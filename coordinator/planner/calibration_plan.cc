#include "coordinator/planner/calibration_plan.h"

#include <algorithm>
#include <map>
#include <vector>

#include "coordinator/planner/sensitivity_plan.h"
#include "coordinator/planner/solve_plan.h"
#include "core/base/error.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"
#include "core/plan/layer_plan.h"
#include "core/plan/serve_plan.h"
#include "core/scheme/compat.h"
#include "core/scheme/recipe.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// What the statistics of one layer and micro-batch take, with room to spare.
constexpr uint64_t kStatsBytes = 64u << 10;

absl::Status CheckSamples(const v1::ModelSpec& model, const v1::CalibrationSet& set) {
  if (set.sample_lengths().empty()) {
    return MakeError(Reason::kBadRequest, "the recipe has static scales and no calibration samples",
                     {}, "Pass --calibration FILE, or random");
  }
  uint64_t tokens = 0;
  for (int i = 0; i < set.sample_lengths_size(); ++i) {
    const uint32_t length = set.sample_lengths(i);
    if (length == 0 || length > model.max_position()) {
      return MakeError(Reason::kBadRequest,
                       fmt::format("calibration sample {} has {} tokens; the model takes 1 to {}",
                                   i, length, model.max_position()),
                       {}, "Pass a smaller --sample-length");
    }
    tokens += length;
  }
  if (tokens > kCalibrationTokensMax) {
    return MakeError(Reason::kBadRequest, fmt::format("{} calibration tokens; at most {}", tokens,
                                                      kCalibrationTokensMax));
  }
  return absl::OkStatus();
}

// `alone`: no two samples together.
void CutBatches(bool alone, v1::CalibrationPlan* plan) {
  uint64_t tokens = 0;
  for (const uint32_t length : plan->sample_lengths()) tokens += length;
  const uint64_t most = std::clamp<uint64_t>(tokens / kBatchesMin, 1, kBatchTokensMax);
  v1::MicroBatch* batch = nullptr;
  uint64_t token = 0;
  for (int i = 0; i < plan->sample_lengths_size(); ++i) {
    const uint64_t end = token + plan->sample_lengths(i);
    if (batch == nullptr || alone || end - batch->token_begin() > most) {
      batch = plan->add_batches();
      batch->set_sample_begin(static_cast<uint32_t>(i));
      batch->set_token_begin(token);
    }
    batch->set_sample_end(static_cast<uint32_t>(i + 1));
    batch->set_token_end(end);
    token = end;
  }
}

}  // namespace

absl::StatusOr<v1::CalibrationPlan> PlanCalibration(const Checkpoint& checkpoint,
                                                    const v1::CalibrationSet& set,
                                                    v1::Compat compat) {
  OCTAVO_RETURN_IF_ERROR(CheckSamples(checkpoint.model, set));
  v1::CalibrationPlan plan;
  *plan.mutable_ids() = set.digest();
  *plan.mutable_sample_lengths() = set.sample_lengths();
  CutBatches(CompatModeOf(compat).unvisited_amax_bits != 0, &plan);

  std::vector<ServedTensor> tensors;
  for (const v1::ModelTensor& tensor : checkpoint.tensors) {
    tensors.emplace_back().tensor = tensor;
    if (tensor.role() == v1::EMBEDDING) *plan.mutable_embedding() = tensor.spec();
  }
  const uint32_t longest =
      *std::max_element(set.sample_lengths().begin(), set.sample_lengths().end());
  OCTAVO_ASSIGN_OR_RETURN(const v1::ServePlan whole,
                          PlanServing(checkpoint.model, tensors, {.max_model_len = longest}));
  for (int32_t layer = 0; layer < checkpoint.model.layer_count(); ++layer) {
    *plan.add_layers() = LayerPlan(whole, layer);
  }
  return plan;
}

void AddCalibrateUnits(v1::Plan* plan) {
  OCTAVO_CHECK(plan->units().empty());
  const v1::CalibrationPlan& calibration = plan->calibration();
  const auto row_bytes = static_cast<uint64_t>(plan->model().hidden_size()) * 2;
  for (int layer = 0; layer < calibration.layers_size(); ++layer) {
    for (int batch = 0; batch < calibration.batches_size(); ++batch) {
      v1::Unit* unit = plan->add_units();
      unit->set_id(static_cast<uint32_t>(plan->units_size() - 1));
      unit->set_kind(v1::UNIT_CALIBRATE);
      unit->set_layer(static_cast<uint32_t>(layer));
      unit->set_batch(static_cast<uint32_t>(batch));
      const v1::MicroBatch& cut = calibration.batches(batch);
      unit->set_source_bytes((cut.token_end() - cut.token_begin()) * row_bytes);
    }
  }
}

void AddScaleUnits(std::span<const v1::StaticScale> scales, v1::Plan* plan) {
  uint32_t after_all = 0;
  for (const v1::Unit& unit : plan->units()) after_all = std::max(after_all, unit.phase() + 1);
  const bool by_layers = IsLayerwise(plan->recipe());
  std::map<int32_t, v1::Unit> by_layer;
  for (const v1::StaticScale& scale : scales) {
    v1::Unit& unit = by_layer[scale.layer()];
    *unit.add_scales() = scale;
    unit.set_output_bytes(unit.output_bytes() + scale.out().end() - scale.out().begin());
  }
  for (auto& [layer, unit] : by_layer) {
    unit.set_id(static_cast<uint32_t>(plan->units_size()));
    unit.set_kind(v1::UNIT_SCALES);
    unit.set_phase(by_layers ? WeightsPhaseOf(layer) : after_all);
    unit.set_layer(static_cast<uint32_t>(layer));
    *plan->add_units() = std::move(unit);
  }
}

uint64_t SpillBytes(const v1::Plan& plan) {
  const v1::CalibrationPlan& calibration = plan.calibration();
  if (calibration.batches().empty()) return 0;
  const uint64_t tokens = calibration.batches(calibration.batches_size() - 1).token_end();
  const auto row_bytes = static_cast<uint64_t>(plan.model().hidden_size()) * 2;
  const auto files = static_cast<uint64_t>(calibration.layers_size()) *
                     static_cast<uint64_t>(calibration.batches_size());
  const uint64_t stats = kStatsBytes + (plan.recipe().has_smooth() ? 2 * row_bytes : 0);
  return tokens * (2 * row_bytes + 4) + files * stats + SolveSpillBytes(plan);
}

CalibrateMemory CalibrateBytes(const v1::Plan& plan) {
  const v1::CalibrationPlan& calibration = plan.calibration();
  uint64_t most = 0;
  for (const v1::MicroBatch& batch : calibration.batches()) {
    uint32_t longest = 0;
    for (uint32_t i = batch.sample_begin(); i < batch.sample_end(); ++i) {
      longest = std::max(longest, calibration.sample_lengths(static_cast<int>(i)));
    }
    // Layers of one model differ in weights at most.
    const auto rows = static_cast<int64_t>(batch.token_end() - batch.token_begin());
    most = std::max(most, LayerRunBytes(calibration.layers(0), rows, longest));
  }
  uint64_t weights = 0;
  for (const v1::ServePlan& layer : calibration.layers()) {
    weights = std::max(weights, LayerWeightBytes(layer));
  }
  most += calibration.kept_bytes();
  const uint64_t solve = std::max(SolveMemoryBytes(plan), SenseMemoryBytes(plan));
  return {.streamed = std::max(most + std::min(weights, kStreamedLayerBytes), solve),
          .resident = std::max(most + weights, solve)};
}

uint32_t ExpertQuotaOfSample(const v1::Plan& plan) {
  const v1::Recipe& recipe = plan.recipe();
  uint32_t quota =
      CompatModeOf(recipe.compat()).expert_quota.value_or(recipe.calibration().expert_quota());
  if (quota == kExpertQuotaUnnamed) quota = ExpertQuotaDefault(recipe, plan.model());
  if (quota == 0 || quota == kExpertQuotaAll) return quota;
  const auto samples = static_cast<uint32_t>(plan.calibration().sample_lengths_size());
  return static_cast<uint32_t>(CeilDiv(int64_t{quota}, int64_t{samples}));
}

std::optional<uint32_t> UnitBefore(const v1::Plan& plan, const v1::Unit& unit) {
  const auto batches = static_cast<uint32_t>(plan.calibration().batches_size());
  if (unit.kind() != v1::UNIT_CALIBRATE || unit.id() < batches) return std::nullopt;
  const v1::Unit& before = plan.units(static_cast<int>(unit.id() - batches));
  const bool gives_rows =
      before.kind() == v1::UNIT_CALIBRATE || before.kind() == v1::UNIT_PROPAGATE;
  if (!gives_rows || before.phase() != unit.phase()) return std::nullopt;
  return before.id();
}

}  // namespace octavo
