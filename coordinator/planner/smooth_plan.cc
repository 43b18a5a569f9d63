#include "coordinator/planner/smooth_plan.h"

#include "core/base/error.h"
#include "core/checkpoint/dialect.h"
#include "core/scheme/recipe.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// The point whose channels a norm makes.
v1::ObservedPoint PointAfter(v1::TensorRole norm) {
  switch (norm) {
    case v1::ATTENTION_NORM:
      return v1::OBSERVED_ATTENTION_INPUT;
    case v1::MLP_NORM:
      return v1::OBSERVED_MLP_INPUT;
    default:
      return v1::OBSERVED_UNSPECIFIED;
  }
}

v1::ObservedPoint PointReadBy(v1::TensorRole role) {
  return role == v1::ROUTER ? v1::OBSERVED_MLP_INPUT : InputPointOf(role);
}

}  // namespace

absl::StatusOr<SmoothedPoints> FindSmoothedPoints(const v1::ModelSpec& model, Layout* layout) {
  SmoothedPoints points;
  std::map<std::pair<int32_t, v1::ObservedPoint>, PlacedTensor*> norms;
  for (PlacedTensor& tensor : layout->tensors) {
    const v1::ObservedPoint point = PointAfter(tensor.source->role());
    if (point != v1::OBSERVED_UNSPECIFIED) norms[{tensor.source->layer(), point}] = &tensor;
  }
  for (const PlacedTensor& tensor : layout->tensors) {
    const auto norm = norms.find({tensor.source->layer(), PointReadBy(tensor.source->role())});
    if (norm == norms.end()) continue;
    SmoothedPoint& point = points[norm->first];
    point.norm = norm->second;
    if (tensor.scheme.scheme == nullptr) {
      point.kept.push_back(&tensor);
      continue;
    }
    if (IsStack(tensor.source->role())) {
      return MakeError(Reason::kBadRecipe,
                       fmt::format("{}: experts stacked in one tensor cannot be smoothed yet",
                                   ModuleName(tensor.source->spec().name())),
                       {}, "Leave out smooth");
    }
    point.quantized.push_back(&tensor);
  }
  std::erase_if(points, [](const auto& point) { return point.second.quantized.empty(); });
  if (points.empty()) {
    return MakeError(Reason::kBadRecipe,
                     fmt::format("smooth: nothing that is quantized in this {} reads what a norm "
                                 "makes: there is nothing to fold factors into",
                                 model.family()),
                     {}, "Quantize q, k and v, or gate and up, or leave out smooth");
  }
  for (PlacedTensor& tensor : layout->tensors) {
    const int32_t layer = tensor.source->layer();
    const v1::TensorRole role = tensor.source->role();
    tensor.by_layers =
        points.contains({layer, PointAfter(role)}) ||
        (tensor.scheme.scheme == nullptr && points.contains({layer, PointReadBy(role)}));
  }
  return points;
}

v1::Fold FoldOf(int32_t layer, v1::ObservedPoint point) {
  v1::Fold fold;
  fold.set_layer(static_cast<uint32_t>(layer));
  fold.set_point(point);
  return fold;
}

void FillSmoothUnit(const SmoothedPoint& smoothed, double strength, v1::Unit* unit) {
  const v1::ModelTensor& norm = *smoothed.norm->source;
  const v1::ObservedPoint point = PointAfter(norm.role());
  v1::SmoothSpec& spec = *unit->mutable_smooth();
  spec.set_point(point);
  spec.set_channels(norm.spec().shape(0));
  spec.set_strength(strength);
  const auto add = [&](const PlacedTensor& tensor) {
    v1::Piece& piece = *unit->add_pieces();
    piece = WholePiece(tensor, tensor.source->expert());
    unit->set_source_bytes(unit->source_bytes() + tensor.source_bytes());
    if (piece.has_format()) {  // looked at
      ClearOutput(&piece);
      return;
    }
    *piece.mutable_fold() = FoldOf(norm.layer(), point);
    piece.mutable_fold()->set_divides(tensor.source == &norm);
    unit->set_output_bytes(unit->output_bytes() + tensor.source_bytes());
  };
  add(*smoothed.norm);
  for (const PlacedTensor* tensor : smoothed.kept) add(*tensor);
  for (const PlacedTensor* tensor : smoothed.quantized) add(*tensor);
}

}  // namespace octavo
