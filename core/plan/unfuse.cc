#include "core/plan/unfuse.h"

#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// Rows [begin, begin + count) of a tensor.
v1::TensorSpec RowsOf(const v1::TensorSpec& whole, int64_t begin, int64_t count) {
  v1::TensorSpec part = whole;
  const uint64_t row_bytes = (whole.end() - whole.begin()) / static_cast<uint64_t>(whole.shape(0));
  part.set_begin(whole.begin() + static_cast<uint64_t>(begin) * row_bytes);
  part.set_end(part.begin() + static_cast<uint64_t>(count) * row_bytes);
  part.set_shape(0, count);
  if (whole.has_bitmask()) {
    v1::Bitmask& bits = *part.mutable_bitmask();
    const uint64_t row_bits = (bits.end() - bits.begin()) / static_cast<uint64_t>(whole.shape(0));
    bits.set_begin(bits.begin() + static_cast<uint64_t>(begin) * row_bits);
    bits.set_end(bits.begin() + static_cast<uint64_t>(count) * row_bits);
  }
  return part;
}

// The scales of rows [begin, begin + count).
absl::StatusOr<v1::TensorSpec> ScalesOf(const ServedTensor& tensor, int64_t begin, int64_t count) {
  const v1::NumericFormat& weight = tensor.scheme->weight();
  if (weight.granularity() == v1::PER_TENSOR) return *tensor.scale;
  if (weight.granularity() == v1::PER_CHANNEL) return RowsOf(*tensor.scale, begin, count);
  const int64_t block = weight.block_rows();
  if (block < 1 || begin % block != 0) {
    return MakeError(Reason::kUnsupported, "a block of scales spans two layers of a fused tensor",
                     {.tensor = tensor.tensor.spec().name()}, "Use a scheme without blocks");
  }
  return RowsOf(*tensor.scale, begin / block, (count + block - 1) / block);
}

// The scale of expert `index`, or the one that all share.
v1::TensorSpec ScaleOfExpert(const v1::TensorSpec& scales, size_t index) {
  if (scales.shape_size() == 0 || scales.shape(0) == 1) return scales;
  return RowsOf(scales, static_cast<int64_t>(index), 1);
}

// Experts have one scale per matrix, and there are as many as experts.
absl::Status CheckStack(const v1::ModelSpec& model, const ServedTensor& tensor) {
  if (!tensor.scheme) return absl::OkStatus();
  const ErrorSite site = {.tensor = tensor.tensor.spec().name()};
  if (tensor.scheme->weight().granularity() != v1::PER_TENSOR) {
    return MakeError(Reason::kUnsupported, "a stack of experts with other scales than one each",
                     site, "Octavo serves what `octavo quantize` writes");
  }
  const auto fits = [&](const v1::TensorSpec& scale, bool shared) {
    const int64_t count = scale.shape_size() == 0 ? 1 : scale.shape(0);
    return count == model.expert_count() || (shared && count == 1);
  };
  if (fits(*tensor.scale, false) && (!tensor.input_scale || fits(*tensor.input_scale, true))) {
    return absl::OkStatus();
  }
  return MakeError(
      Reason::kBadCheckpoint,
      fmt::format("a stack of {} experts with another number of scales", model.expert_count()),
      site, "Quantize the model again");
}

struct Part {
  v1::TensorRole role;
  int64_t rows;
};

absl::StatusOr<std::vector<ServedTensor>> Cut(const ServedTensor& tensor,
                                              const std::vector<Part>& parts, bool experts) {
  std::vector<ServedTensor> out;
  int64_t begin = 0;
  for (const Part& part : parts) {
    ServedTensor& one = out.emplace_back(tensor);
    *one.tensor.mutable_spec() = RowsOf(tensor.tensor.spec(), begin, part.rows);
    one.tensor.set_role(part.role);
    if (experts) one.tensor.set_expert(static_cast<int32_t>(out.size()) - 1);
    one.tensor.set_transposed(part.role == v1::EXPERT_DOWN);
    if (tensor.scheme && experts) {
      one.scale = ScaleOfExpert(*tensor.scale, out.size() - 1);
      if (tensor.input_scale) {
        one.input_scale = ScaleOfExpert(*tensor.input_scale, out.size() - 1);
      }
    } else if (tensor.scheme) {
      OCTAVO_ASSIGN_OR_RETURN(one.scale, ScalesOf(tensor, begin, part.rows));
    }
    begin += part.rows;
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<ServedTensor>> Unfuse(const v1::ModelSpec& model,
                                                 const ServedTensor& tensor) {
  const int64_t query = model.head_count() * model.head_dim();
  const int64_t key = model.kv_head_count() * model.head_dim();
  const auto stack = [&](v1::TensorRole role) -> absl::StatusOr<std::vector<ServedTensor>> {
    OCTAVO_RETURN_IF_ERROR(CheckStack(model, tensor));
    const auto count = static_cast<size_t>(model.expert_count());
    return Cut(tensor, std::vector<Part>(count, {role, model.intermediate_size()}), true);
  };
  switch (tensor.tensor.role()) {
    case v1::FUSED_QKV:
      return Cut(tensor, {{v1::Q_PROJ, query}, {v1::K_PROJ, key}, {v1::V_PROJ, key}}, false);
    case v1::STACKED_GATE:
      return stack(v1::EXPERT_GATE);
    case v1::STACKED_UP:
      return stack(v1::EXPERT_UP);
    case v1::STACKED_DOWN:
      return stack(v1::EXPERT_DOWN);
    default:
      return std::vector<ServedTensor>{tensor};
  }
}

}  // namespace octavo
