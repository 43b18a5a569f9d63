#include "coordinator/report/figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>
#include <utility>

#include "core/model/family.h"
#include "core/tensor/bare/tree.h"

namespace octavo {
namespace {

// One tensor on its way: sums are added at the end, over Tree.
struct OpenTensor {
  TensorFigures figures;
  uint64_t order = 0;
  std::vector<std::array<double, 2>> pieces;  // squared error, squared source
};

class TensorCollector {
 public:
  explicit TensorCollector(const v1::Plan& plan)
      : model_(plan.model()), family_(FamilyByName(plan.model().family())) {}

  // The tensor of a piece that is cast.
  void AddPiece(const v1::Piece& piece) { Find(piece.source().name()).format = piece.format(); }

  void AddReport(const v1::PieceReport& report) {
    WeightFigures part;
    part.elements = report.elements();
    part.max_abs_error = report.max_abs_error();
    part.saturated = report.saturated();
    part.zero_groups = report.zero_groups();
    part.scale_min = report.scale_min();
    part.scale_max = report.scale_max();
    Find(report.tensor()).weights.Add(part);
    tensors_[index_.at(report.tensor())].pieces.push_back(
        {report.squared_error(), report.squared_source()});
  }

  std::vector<TensorFigures> Finish() {
    std::stable_sort(tensors_.begin(), tensors_.end(),
                     [](const OpenTensor& a, const OpenTensor& b) { return a.order < b.order; });
    std::vector<TensorFigures> out;
    out.reserve(tensors_.size());
    for (OpenTensor& tensor : tensors_) {
      auto& pieces = tensor.pieces;
      for (const MergeStep& step : MergeSteps(static_cast<int>(pieces.size()))) {
        for (int i = 0; i < 2; ++i) pieces[step.into][i] += pieces[step.from][i];
      }
      if (!pieces.empty()) {
        tensor.figures.weights.squared_error = pieces.front()[0];
        tensor.figures.weights.squared_source = pieces.front()[1];
      }
      tensor.figures.weights.tensors = 1;
      out.push_back(std::move(tensor.figures));
    }
    return out;
  }

 private:
  TensorFigures& Find(const std::string& name) {
    const auto [entry, inserted] = index_.try_emplace(name, tensors_.size());
    if (!inserted) return tensors_[entry->second].figures;
    OpenTensor& open = tensors_.emplace_back();
    open.figures.name = name;
    open.order = std::numeric_limits<uint64_t>::max();
    if (family_ == nullptr) return open.figures;
    if (const auto place = RoleOf(name, *family_, model_)) {
      open.figures.place = {place->layer, place->role, place->expert};
      open.order = OrderKey(*place, *family_);
    }
    return open.figures;
  }

  const v1::ModelSpec& model_;
  const Family* family_;
  std::map<std::string, size_t> index_;
  std::vector<OpenTensor> tensors_;  // by first appearance in the plan
};

std::vector<GroupFigures> Grouped(const std::vector<TensorFigures>& tensors, bool by_role,
                                  bool by_layer) {
  std::map<std::pair<v1::TensorRole, int32_t>, WeightFigures> groups;
  for (const TensorFigures& tensor : tensors) {
    groups[{by_role ? tensor.place.role : v1::ROLE_UNSPECIFIED, by_layer ? tensor.place.layer : -1}]
        .Add(tensor.weights);
  }
  std::vector<GroupFigures> out;
  for (const auto& [key, weights] : groups) {
    out.push_back({{.layer = key.second, .role = key.first}, weights});
  }
  return out;
}

std::vector<const TensorFigures*> WorstOf(const std::vector<TensorFigures>& tensors) {
  std::vector<const TensorFigures*> worst;
  for (const TensorFigures& tensor : tensors) worst.push_back(&tensor);
  std::stable_sort(worst.begin(), worst.end(), [](const TensorFigures* a, const TensorFigures* b) {
    return a->weights.RelativeError() > b->weights.RelativeError();
  });
  worst.resize(std::min(worst.size(), kWorstTensors));
  return worst;
}

std::vector<ScaleFigures> ScalesOf(const v1::Plan& plan,
                                   std::span<const v1::Receipt* const> by_unit) {
  using Place = std::tuple<int32_t, int32_t, v1::ObservedPoint>;
  std::map<std::string_view, Place> places;
  for (const v1::Unit& unit : plan.units()) {
    for (const v1::StaticScale& scale : unit.scales()) {
      places[scale.tensor()] = {scale.layer(), scale.expert(), scale.point()};
    }
  }
  // Scales of one place may differ where a compatibility mode ties less, or covers more points.
  std::map<std::tuple<Place, float, float>, ScaleFigures> merged;
  for (const v1::Receipt* receipt : by_unit) {
    for (const v1::ScaleReport& report : receipt->scales()) {
      const auto place = places.find(report.tensor());
      if (place == places.end()) continue;
      ScaleFigures& figures = merged[{place->second, report.scale(), report.amax()}];
      std::tie(figures.layer, figures.expert, figures.point) = place->second;
      figures.scale = report.scale();
      figures.amax = report.amax();
      figures.rows = report.rows();
      figures.tensors.push_back(report.tensor());
    }
  }
  std::vector<ScaleFigures> out;
  for (auto& [key, figures] : merged) out.push_back(std::move(figures));
  return out;
}

std::vector<ExpertFigures> ExpertsOf(std::span<const v1::Receipt* const> by_unit) {
  std::map<std::pair<int32_t, int32_t>, ExpertFigures> experts;
  for (const v1::Receipt* receipt : by_unit) {
    for (const v1::ExpertCoverage& seen : receipt->experts()) {
      const auto layer = static_cast<int32_t>(seen.layer());
      const auto expert = static_cast<int32_t>(seen.expert());
      experts[{layer, expert}] = {.layer = layer,
                                  .expert = expert,
                                  .rows = seen.rows(),
                                  .routed = seen.routed(),
                                  .input_amax = seen.input_amax(),
                                  .inner_amax = seen.inner_amax()};
    }
  }
  std::vector<ExpertFigures> out;
  for (const auto& [key, figures] : experts) out.push_back(figures);
  return out;
}

// Tensors of which no piece is cast.
uint64_t CountKept(const v1::Plan& plan) {
  uint64_t kept = 0;
  for (const v1::Unit& unit : plan.units()) {
    if (unit.kind() != v1::UNIT_CAST && unit.kind() != v1::UNIT_COPY &&
        unit.kind() != v1::UNIT_SMOOTH) {
      continue;  // none is solved
    }
    for (const v1::Piece& piece : unit.pieces()) {
      if (!piece.has_format() && piece.row_begin() == 0) ++kept;
    }
  }
  return kept;
}

void AddSolved(const v1::SolveFigures& solved, Figures* figures) {
  figures->solved.push_back(solved);
  if (solved.expert() < 0) return;
  ++figures->solved_experts;
  if (solved.shrinkage() > 0) ++figures->shrunk_experts;
  if (solved.dampings().empty()) ++figures->rounded_experts;
}

}  // namespace

void WeightFigures::Add(const WeightFigures& other) {
  tensors += other.tensors;
  elements += other.elements;
  squared_error += other.squared_error;
  squared_source += other.squared_source;
  max_abs_error = std::max(max_abs_error, other.max_abs_error);
  saturated += other.saturated;
  zero_groups += other.zero_groups;
  if (other.scale_max == 0) return;
  scale_min = scale_max == 0 ? other.scale_min : std::min(scale_min, other.scale_min);
  scale_max = std::max(scale_max, other.scale_max);
}

double WeightFigures::RelativeError() const {
  return squared_source > 0 ? std::sqrt(squared_error / squared_source) : 0;
}

Figures MakeFigures(const v1::Plan& plan, std::span<const v1::Receipt* const> by_unit) {
  TensorCollector collector(plan);
  for (const v1::Unit& unit : plan.units()) {
    if (unit.kind() != v1::UNIT_CAST && unit.kind() != v1::UNIT_SOLVE) continue;
    for (const v1::Piece& piece : unit.pieces()) {
      if (piece.has_format()) collector.AddPiece(piece);
    }
  }
  for (const v1::Receipt* receipt : by_unit) {
    for (const v1::PieceReport& report : receipt->reports()) collector.AddReport(report);
  }
  Figures figures;
  figures.tensors = collector.Finish();
  for (const TensorFigures& tensor : figures.tensors) figures.all.Add(tensor.weights);
  figures.roles = Grouped(figures.tensors, true, false);
  figures.layers = Grouped(figures.tensors, false, true);
  figures.layers_by_role = Grouped(figures.tensors, true, true);
  figures.worst = WorstOf(figures.tensors);
  figures.scales = ScalesOf(plan, by_unit);
  figures.experts = ExpertsOf(by_unit);
  for (const v1::Receipt* receipt : by_unit) {
    if (receipt->has_solved()) AddSolved(receipt->solved(), &figures);
    if (receipt->has_smoothed()) figures.smoothed.push_back(receipt->smoothed());
  }
  figures.kept_tensors = CountKept(plan);
  for (const uint32_t length : plan.calibration().sample_lengths()) {
    figures.calibration_tokens += length;
  }
  figures.calibration_samples = static_cast<uint64_t>(plan.calibration().sample_lengths_size());
  return figures;
}

}  // namespace octavo
