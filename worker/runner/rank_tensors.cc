#include "worker/runner/rank_tensors.h"

#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"

namespace octavo {

RankTensors::RankTensors(const v1::RankPlan& plan, ShardFiles* files) : files_(files) {
  for (const v1::RankTensor& tensor : plan.tensors()) {
    const v1::ModelTensor& one = tensor.tensor();
    by_place_[{one.layer(), static_cast<int>(one.role()), one.expert()}] = &tensor;
  }
}

const v1::RankTensor* RankTensors::Find(Place place) const {
  const auto found = by_place_.find({place.layer, static_cast<int>(place.role), place.expert});
  return found == by_place_.end() ? nullptr : found->second;
}

absl::StatusOr<const v1::RankTensor*> RankTensors::Need(Place place) const {
  const v1::RankTensor* tensor = Find(place);
  if (tensor != nullptr) return tensor;
  return MakeError(Reason::kInternal, fmt::format("the serving plan lacks {} of layer {}",
                                                  v1::TensorRole_Name(place.role), place.layer));
}

absl::StatusOr<std::vector<uint16_t>> RankTensors::Vector(Place place) const {
  OCTAVO_ASSIGN_OR_RETURN(const v1::RankTensor* tensor, Need(place));
  return ReadVector(files_, *tensor);
}

absl::StatusOr<std::vector<float>> RankTensors::Bias(Place place) const {
  std::vector<float> bias;
  const v1::RankTensor* tensor = place.role == v1::ROLE_UNSPECIFIED ? nullptr : Find(place);
  if (tensor == nullptr) return bias;
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<uint16_t> values, ReadVector(files_, *tensor));
  for (const uint16_t value : values) bias.push_back(F32FromBf16(value));
  return bias;
}

InputForm InputFormOf(const v1::RankTensor& weight) {
  if (!weight.has_scheme()) return InputForm::kBf16;
  const v1::Scheme& scheme = weight.scheme();
  if (scheme.weight().type() == v1::NUMERIC_INT8) return InputForm::kInt8Token;
  const bool plain_input = !scheme.has_input() ||
                           scheme.input().type() == v1::NUMERIC_UNSPECIFIED ||
                           scheme.input().type() == v1::NUMERIC_KEEP;
  if (plain_input) return InputForm::kBf16;
  if (!scheme.input().dynamic()) return InputForm::kFp8Static;
  return scheme.weight().granularity() == v1::PER_BLOCK ? InputForm::kFp8Group
                                                        : InputForm::kFp8Token;
}

absl::StatusOr<WeightScales> ReadWeightScales(ShardFiles* files, const v1::RankTensor& weight,
                                              const SliceBounds& bounds) {
  const bool needs_input = InputFormOf(weight) == InputForm::kFp8Static;
  if (!weight.has_scale() || (needs_input && !weight.has_input_scale())) {
    return MakeError(Reason::kBadCheckpoint, "a quantized weight without a scale",
                     {.tensor = weight.tensor().spec().name()});
  }
  WeightScales scales;
  if (needs_input) {
    OCTAVO_ASSIGN_OR_RETURN(const auto input, ReadScales(files, weight.input_scale(), 1));
    scales.input = input.front();
  }
  const v1::Granularity granularity = weight.scheme().weight().granularity();
  if (granularity == v1::PER_BLOCK) {
    const int64_t count = CeilDiv(bounds.columns, kScaleBlock) * CeilDiv(bounds.rows, kScaleBlock);
    OCTAVO_ASSIGN_OR_RETURN(scales.blocks, ReadScales(files, weight.scale(), count));
    return scales;
  }
  const bool one = granularity == v1::PER_TENSOR;
  OCTAVO_ASSIGN_OR_RETURN(const auto stored,
                          ReadScales(files, weight.scale(), one ? 1 : bounds.rows));
  for (int64_t row = bounds.row_begin; row < bounds.row_end; ++row) {
    scales.channels.push_back(stored[one ? 0 : static_cast<size_t>(row)]);
  }
  return scales;
}

}  // namespace octavo
