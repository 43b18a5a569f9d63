#pragma once

// A plan with receipts whose figures are small numbers, so that tests can say what must come out.

#include <string>
#include <vector>

#include "octavo/v1/plan.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

class MadeUpJob {
 public:
  explicit MadeUpJob(const std::string& family = "llama", int layers = 2, int experts = 0) {
    v1::ModelSpec& model = *plan_.mutable_model();
    model.set_family(family);
    model.set_layer_count(layers);
    model.set_expert_count(experts);
    model.set_experts_per_token(experts == 0 ? 0 : 2);
    plan_.mutable_recipe()->set_name("made-up");
    plan_.mutable_recipe()->set_dialect("compressed-tensors");
  }

  // A unit that casts one piece of `report.tensor()`.
  void Cast(const v1::PieceReport& report) {
    v1::Unit& unit = AddUnit(v1::UNIT_CAST);
    v1::Piece& piece = *unit.add_pieces();
    piece.mutable_source()->set_name(report.tensor());
    piece.mutable_format()->set_type(v1::NUMERIC_FP8_E4M3);
    piece.mutable_format()->set_granularity(v1::PER_CHANNEL);
    *receipts_.back().add_reports() = report;
  }

  // A unit that copies a tensor in two pieces.
  void Copy(const std::string& tensor) {
    v1::Unit& unit = AddUnit(v1::UNIT_COPY);
    for (const int row : {0, 128}) {
      v1::Piece& piece = *unit.add_pieces();
      piece.mutable_source()->set_name(tensor);
      piece.set_row_begin(row);
    }
  }

  // A unit that writes one static scale, held by the given tensors.
  void Scale(int layer, v1::ObservedPoint point, float scale, float amax,
             const std::vector<std::string>& tensors) {
    v1::Unit& unit = AddUnit(v1::UNIT_SCALES);
    for (const std::string& tensor : tensors) {
      v1::StaticScale& placed = *unit.add_scales();
      placed.set_tensor(tensor);
      placed.set_layer(layer);
      placed.set_expert(-1);
      placed.set_point(point);
      v1::ScaleReport& report = *receipts_.back().add_scales();
      report.set_tensor(tensor);
      report.set_scale(scale);
      report.set_amax(amax);
      report.set_rows(100);
    }
  }

  // What an expert was shown, as the last unit reports it.
  void Saw(uint32_t layer, uint32_t expert, uint64_t rows, uint64_t routed, float input_amax,
           float inner_amax) {
    v1::ExpertCoverage& seen = *receipts_.back().add_experts();
    seen.set_layer(layer);
    seen.set_expert(expert);
    seen.set_rows(rows);
    seen.set_routed(routed);
    seen.set_input_amax(input_amax);
    seen.set_inner_amax(inner_amax);
  }

  // A unit that solved nothing but says so.
  void Solved(int expert, uint64_t tokens, double shrinkage, std::vector<double> dampings) {
    AddUnit(v1::UNIT_SOLVE);
    v1::SolveFigures& solved = *receipts_.back().mutable_solved();
    solved.set_point(v1::OBSERVED_MLP_INNER);
    solved.set_expert(expert);
    solved.set_tokens(tokens);
    solved.set_shrinkage(shrinkage);
    if (shrinkage > 0) solved.set_mean_tokens(77);
    solved.mutable_dampings()->Add(dampings.begin(), dampings.end());
  }

  void Calibrated(const std::vector<uint32_t>& sample_lengths) {
    v1::CalibrationPlan& calibration = *plan_.mutable_calibration();
    calibration.mutable_ids()->set_low(0xabc);
    for (const uint32_t length : sample_lengths) calibration.add_sample_lengths(length);
    plan_.mutable_recipe()->mutable_calibration()->set_observer(v1::OBSERVER_ABSMAX);
  }

  v1::Plan& plan() { return plan_; }
  std::vector<const v1::Receipt*> by_unit() const {
    std::vector<const v1::Receipt*> out;
    for (const v1::Receipt& receipt : receipts_) out.push_back(&receipt);
    return out;
  }

 private:
  v1::Unit& AddUnit(v1::UnitKind kind) {
    receipts_.emplace_back().set_unit_id(static_cast<uint32_t>(plan_.units_size()));
    v1::Unit& unit = *plan_.add_units();
    unit.set_id(static_cast<uint32_t>(plan_.units_size() - 1));
    unit.set_kind(kind);
    return unit;
  }

  v1::Plan plan_;
  std::vector<v1::Receipt> receipts_;
};

inline v1::PieceReport Report(const std::string& tensor, double squared_error,
                              double squared_source, uint64_t elements = 16) {
  v1::PieceReport report;
  report.set_tensor(tensor);
  report.set_squared_error(squared_error);
  report.set_squared_source(squared_source);
  report.set_elements(elements);
  return report;
}

}  // namespace octavo
