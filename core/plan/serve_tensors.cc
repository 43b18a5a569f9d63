#include "core/plan/serve_tensors.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/model/family.h"
#include "core/plan/unfuse.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

using Place = std::tuple<int, int32_t, int32_t>;  // role, layer, expert

Place PlaceOf(v1::TensorRole role, int32_t layer, int32_t expert) {
  return {static_cast<int>(role), layer, expert};
}

// A static input: FP8 with one scale, of a weight with a scale per tensor or channel.
absl::Status CheckStaticInput(const ServedTensor& served) {
  const std::string& name = served.tensor.spec().name();
  if (served.scheme->weight().type() != v1::NUMERIC_FP8_E4M3 ||
      served.tensor.spec().dtype() != v1::F8_E4M3 ||
      served.scheme->weight().granularity() == v1::PER_BLOCK ||
      served.scheme->input().granularity() != v1::PER_TENSOR) {
    return MakeError(Reason::kUnsupported, "cannot serve this static input", {.tensor = name},
                     "static inputs are FP8 with one scale, under FP8 weights without blocks");
  }
  if (served.input_scale) return absl::OkStatus();
  return MakeError(Reason::kBadCheckpoint, "a static input without a scale", {.tensor = name});
}

absl::Status CheckScheme(const ServedTensor& served) {
  const std::string& name = served.tensor.spec().name();
  const v1::DType dtype = served.tensor.spec().dtype();
  if (!served.scheme) {
    if (dtype == v1::BF16 || dtype == v1::F16 || dtype == v1::F32) return absl::OkStatus();
    return MakeError(Reason::kBadCheckpoint, "eight-bit weights without a scheme", {.tensor = name},
                     "config.json lacks the quantization_config that describes them");
  }
  const v1::NumericFormat& weight = served.scheme->weight();
  const v1::NumericFormat& input = served.scheme->input();
  const bool has_input = served.scheme->has_input() && input.type() != v1::NUMERIC_UNSPECIFIED &&
                         input.type() != v1::NUMERIC_KEEP;
  const auto refuse = [&](std::string_view what) {
    return MakeError(Reason::kUnsupported, fmt::format("cannot serve {}", what), {.tensor = name});
  };
  if (!served.scale) {
    return MakeError(Reason::kBadCheckpoint, "a quantized weight without a scale",
                     {.tensor = name});
  }
  const bool block = weight.granularity() == v1::PER_BLOCK;
  if (weight.granularity() != v1::PER_TENSOR && weight.granularity() != v1::PER_CHANNEL && !block) {
    return refuse("this weight granularity");
  }
  if (block && (weight.block_rows() != kScaleBlock || weight.block_columns() != kScaleBlock)) {
    return refuse("weight blocks other than 128 x 128");
  }
  if (has_input && input.type() != weight.type()) return refuse("mixed-type activations");
  if (has_input && !input.dynamic()) return CheckStaticInput(served);
  if (has_input && input.granularity() != (block ? v1::PER_GROUP : v1::PER_TOKEN)) {
    return refuse("this activation granularity");
  }
  if (has_input && block && input.block_columns() != kScaleBlock) {
    return refuse("activation groups other than 128");
  }
  if (weight.type() == v1::NUMERIC_FP8_E4M3) {
    return dtype == v1::F8_E4M3 ? absl::OkStatus() : refuse("FP8 weights stored in another dtype");
  }
  if (weight.type() != v1::NUMERIC_INT8 || dtype != v1::I8) return refuse("this weight type");
  if (!has_input) return refuse("INT8 weights with unquantized activations");
  return block ? refuse("block-scaled INT8") : absl::OkStatus();
}

std::string Describe(const ExpectedTensor& tensor) {
  std::string text = v1::TensorRole_Name(tensor.role);
  if (tensor.expert >= 0) text += fmt::format(" of expert {}", tensor.expert);
  return tensor.layer < 0 ? "no tensor for " + text
                          : fmt::format("layer {} has no tensor for {}", tensor.layer, text);
}

absl::Status CheckShape(const v1::TensorSpec& spec, const std::vector<int64_t>& want) {
  if (std::equal(spec.shape().begin(), spec.shape().end(), want.begin(), want.end())) {
    return absl::OkStatus();
  }
  return MakeError(Reason::kBadCheckpoint,
                   fmt::format("shape [{}] where config.json says [{}]",
                               fmt::join(spec.shape(), ", "), fmt::join(want, ", ")),
                   {.file = spec.file(), .tensor = spec.name()});
}

}  // namespace

absl::Status CheckServable(const v1::ModelSpec& model) {
  const auto refuse = [&](const std::string& what) {
    return MakeError(Reason::kUnsupported, "cannot serve this model: " + what,
                     {.file = "config.json"});
  };
  if (model.act() != "silu") return refuse(fmt::format("activation '{}' (only silu)", model.act()));
  if (model.hidden_size() < 1 || model.intermediate_size() < 1 || model.layer_count() < 1 ||
      model.vocab_size() < 1 || model.max_position() < 1) {
    return refuse("a dimension is missing");
  }
  if (model.kv_head_count() < 1 || model.head_count() % model.kv_head_count() != 0) {
    return refuse("query heads are not a multiple of KV heads");
  }
  if (model.head_dim() < 2 || model.head_dim() % 2 != 0 || model.head_dim() > 512) {
    return refuse(fmt::format("head dimension {}", model.head_dim()));
  }
  const std::string& rope = model.rope_scaling().type();
  if (!rope.empty() && rope != "linear" && rope != "llama3") {
    return refuse(fmt::format("rope scaling '{}'", rope));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ServedTensor>> SelectTensors(const v1::ModelSpec& model,
                                                        std::span<const ServedTensor> tensors) {
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<ExpectedTensor> expected, ExpectedTensors(model));
  std::map<Place, const ServedTensor*> by_place;
  for (const ServedTensor& tensor : tensors) {
    by_place.emplace(PlaceOf(tensor.tensor.role(), tensor.tensor.layer(), tensor.tensor.expert()),
                     &tensor);
  }
  std::vector<ServedTensor> selected;
  for (const ExpectedTensor& want : expected) {
    const auto found = by_place.find(PlaceOf(want.role, want.layer, want.expert));
    if (found == by_place.end()) return MakeError(Reason::kBadCheckpoint, Describe(want));
    const ServedTensor& tensor = *found->second;
    OCTAVO_RETURN_IF_ERROR(CheckShape(tensor.tensor.spec(), want.shape));
    if (want.shape.size() > 1) OCTAVO_RETURN_IF_ERROR(CheckScheme(tensor));
    OCTAVO_ASSIGN_OR_RETURN(std::vector<ServedTensor> parts, Unfuse(model, tensor));
    std::move(parts.begin(), parts.end(), std::back_inserter(selected));
  }
  if (selected.front().scheme) {
    return MakeError(Reason::kUnsupported, "cannot serve a quantized embedding",
                     {.tensor = selected.front().tensor.spec().name()});
  }
  return selected;
}

absl::Status QuantizeHeadAtLoad(v1::ModelSpec* model, std::vector<ServedTensor>* selected) {
  if (model->tied_embeddings()) {
    ServedTensor own = selected->front();  // the embedding
    own.tensor.set_role(v1::LM_HEAD);
    selected->push_back(std::move(own));
    model->set_tied_embeddings(false);
  }
  const auto head = std::find_if(selected->begin(), selected->end(), [](const ServedTensor& one) {
    return one.tensor.role() == v1::LM_HEAD;
  });
  OCTAVO_CHECK(head != selected->end() && !head->tensor.transposed());
  if (head->scheme) {
    return MakeError(Reason::kBadRequest, "the output head has eight bits already",
                     {.tensor = head->tensor.spec().name()}, "leave out --lm-head");
  }
  v1::Scheme& scheme = head->scheme.emplace();
  scheme.mutable_weight()->set_type(v1::NUMERIC_FP8_E4M3);
  scheme.mutable_weight()->set_granularity(v1::PER_CHANNEL);
  scheme.mutable_input()->set_type(v1::NUMERIC_FP8_E4M3);
  scheme.mutable_input()->set_granularity(v1::PER_TOKEN);
  scheme.mutable_input()->set_dynamic(true);
  head->quantized_at_load = true;
  return absl::OkStatus();
}

}  // namespace octavo
