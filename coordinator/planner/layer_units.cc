#include "coordinator/planner/layer_units.h"

#include "core/checkpoint/dialect.h"

namespace octavo {
namespace {

// Stored [inputs, outputs], expert after expert.
bool IsTransposed(const PlacedTensor& tensor) { return tensor.source->role() == v1::STACKED_DOWN; }

}  // namespace

void AddToGroups(const PlacedTensor& tensor, WeightGroups* groups) {
  const v1::ModelTensor& source = *tensor.source;
  const v1::ObservedPoint point = InputPointOf(source.role());
  if (!IsStack(source.role())) {
    (*groups)[{source.layer(), point, source.expert()}].push_back(&tensor);
    return;
  }
  for (int32_t expert = 0; expert < tensor.expert_count; ++expert) {
    (*groups)[{source.layer(), point, expert}].push_back(&tensor);
  }
}

v1::Unit* LayerUnits::Add(v1::UnitKind kind, int32_t layer, uint32_t phase) {
  v1::Unit* unit = plan_->add_units();
  unit->set_id(static_cast<uint32_t>(plan_->units_size() - 1));
  unit->set_kind(kind);
  unit->set_phase(phase);
  unit->set_layer(static_cast<uint32_t>(layer));
  return unit;
}

void LayerUnits::AddBatches(v1::UnitKind kind, int32_t layer, uint32_t phase,
                            const std::set<v1::ObservedPoint>& kept,
                            const std::vector<v1::ObservedPoint>& smoothed) {
  const auto row_bytes = static_cast<uint64_t>(plan_->model().hidden_size()) * 2;
  for (int batch = 0; batch < plan_->calibration().batches_size(); ++batch) {
    const v1::MicroBatch& cut = plan_->calibration().batches(batch);
    v1::Unit* unit = Add(kind, layer, phase);
    unit->set_batch(static_cast<uint32_t>(batch));
    unit->set_source_bytes((cut.token_end() - cut.token_begin()) * row_bytes);
    unit->mutable_kept_points()->Add(kept.begin(), kept.end());
    unit->mutable_smoothed_points()->Add(smoothed.begin(), smoothed.end());
  }
}

void LayerUnits::SetRead(const WeightGroup& group, v1::HessianSpec* spec) {
  spec->set_point(std::get<1>(group.first));
  spec->set_expert(std::get<2>(group.first));
  const PlacedTensor& weight = *group.second.front();
  const v1::TensorSpec& stored = weight.source->spec();
  spec->set_channels(IsTransposed(weight) ? stored.shape(0) / weight.expert_count
                                          : stored.shape(1));
}

void LayerUnits::AddPieces(const WeightGroup& group, v1::Unit* unit) {
  unit->set_whole_ties(true);
  bool tied = false;
  for (const PlacedTensor* tensor : group.second) {
    v1::Piece& piece = *unit->add_pieces();
    piece = WholePiece(*tensor, std::get<2>(group.first));
    piece.set_transposed(IsTransposed(*tensor));
    unit->set_source_bytes(unit->source_bytes() +
                           tensor->source_bytes() / static_cast<uint64_t>(tensor->expert_count));
    if (piece.format().granularity() != v1::PER_TENSOR) continue;
    piece.set_tie_group(static_cast<int32_t>(plan_->tie_group_count()));
    tied = true;
  }
  if (tied) plan_->set_tie_group_count(plan_->tie_group_count() + 1);
  plan_->set_source_bytes(plan_->source_bytes() + unit->source_bytes());
}

}  // namespace octavo
