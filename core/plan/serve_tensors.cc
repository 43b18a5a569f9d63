#include "core/plan/serve_tensors.h"

#include <map>
#include <string>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using Roles = std::map<std::pair<int, int>, const ServedTensor*>;  // (layer, role)

struct Shape {
  int64_t rows = 0;
  int64_t columns = 0;  // 0: one-dimensional
};

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
  if (has_input && (!input.dynamic() || input.type() != weight.type())) {
    return refuse("static or mixed-type activations");
  }
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

// Looks tensors up by layer and role, checking shapes and schemes on the way.
class Catalogue {
 public:
  Catalogue(const v1::ModelSpec& model, std::span<const ServedTensor> tensors) : model_(model) {
    for (const ServedTensor& tensor : tensors) {
      by_role_.emplace(std::pair(tensor.tensor.layer(), static_cast<int>(tensor.tensor.role())),
                       &tensor);
    }
  }

  absl::StatusOr<const ServedTensor*> Find(int layer, v1::TensorRole role) const {
    const auto found = by_role_.find({layer, static_cast<int>(role)});
    if (found == by_role_.end()) {
      return MakeError(Reason::kBadCheckpoint,
                       layer < 0 ? fmt::format("no tensor for {}", v1::TensorRole_Name(role))
                                 : fmt::format("layer {} has no tensor for {}", layer,
                                               v1::TensorRole_Name(role)));
    }
    const ServedTensor& tensor = *found->second;
    OCTAVO_RETURN_IF_ERROR(CheckShape(tensor));
    if (ShapeOf(role).columns != 0) OCTAVO_RETURN_IF_ERROR(CheckScheme(tensor));
    return &tensor;
  }

 private:
  Shape ShapeOf(v1::TensorRole role) const {
    const int64_t hidden = model_.hidden_size();
    const int64_t inner = model_.intermediate_size();
    const int64_t query = model_.head_count() * model_.head_dim();
    const int64_t key = model_.kv_head_count() * model_.head_dim();
    switch (role) {
      case v1::EMBEDDING:
      case v1::LM_HEAD:
        return {model_.vocab_size(), hidden};
      case v1::Q_PROJ:
        return {query, hidden};
      case v1::K_PROJ:
      case v1::V_PROJ:
        return {key, hidden};
      case v1::O_PROJ:
        return {hidden, query};
      case v1::GATE_PROJ:
      case v1::UP_PROJ:
        return {inner, hidden};
      case v1::DOWN_PROJ:
        return {hidden, inner};
      case v1::Q_BIAS:
        return {query, 0};
      case v1::K_BIAS:
      case v1::V_BIAS:
        return {key, 0};
      case v1::GATE_BIAS:
      case v1::UP_BIAS:
        return {inner, 0};
      default:
        return {hidden, 0};
    }
  }

  absl::Status CheckShape(const ServedTensor& tensor) const {
    const Shape want = ShapeOf(tensor.tensor.role());
    const auto& shape = tensor.tensor.spec().shape();
    const bool good = want.columns == 0
                          ? shape.size() == 1 && shape[0] == want.rows
                          : shape.size() == 2 && shape[0] == want.rows && shape[1] == want.columns;
    if (good) return absl::OkStatus();
    return MakeError(Reason::kBadCheckpoint,
                     fmt::format("shape [{}] where config.json says [{}{}]",
                                 fmt::join(shape.begin(), shape.end(), ", "), want.rows,
                                 want.columns == 0 ? "" : fmt::format(", {}", want.columns)),
                     {.file = tensor.tensor.spec().file(), .tensor = tensor.tensor.spec().name()});
  }

  const v1::ModelSpec& model_;
  Roles by_role_;
};

std::vector<v1::TensorRole> LayerRoles(const v1::ModelSpec& model) {
  std::vector<v1::TensorRole> roles = {v1::ATTENTION_NORM, v1::Q_PROJ,  v1::K_PROJ,
                                       v1::V_PROJ,         v1::O_PROJ,  v1::MLP_NORM,
                                       v1::GATE_PROJ,      v1::UP_PROJ, v1::DOWN_PROJ};
  if (model.attention_bias()) {
    roles.insert(roles.end(), {v1::Q_BIAS, v1::K_BIAS, v1::V_BIAS, v1::O_BIAS});
  }
  if (model.mlp_bias()) roles.insert(roles.end(), {v1::GATE_BIAS, v1::UP_BIAS, v1::DOWN_BIAS});
  return roles;
}

}  // namespace

absl::Status CheckServable(const v1::ModelSpec& model) {
  const auto refuse = [&](const std::string& what) {
    return MakeError(Reason::kUnsupported, "cannot serve this model: " + what,
                     {.file = "config.json"});
  };
  if (model.expert_count() > 0) return refuse("mixtures of experts are not served yet");
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

absl::StatusOr<std::vector<const ServedTensor*>> SelectTensors(
    const v1::ModelSpec& model, std::span<const ServedTensor> tensors) {
  const Catalogue catalogue(model, tensors);
  std::vector<const ServedTensor*> selected;
  const auto add = [&](int layer, v1::TensorRole role) -> absl::Status {
    OCTAVO_ASSIGN_OR_RETURN(const ServedTensor* tensor, catalogue.Find(layer, role));
    selected.push_back(tensor);
    return absl::OkStatus();
  };
  OCTAVO_RETURN_IF_ERROR(add(-1, v1::EMBEDDING));
  for (int layer = 0; layer < model.layer_count(); ++layer) {
    for (const v1::TensorRole role : LayerRoles(model)) OCTAVO_RETURN_IF_ERROR(add(layer, role));
  }
  OCTAVO_RETURN_IF_ERROR(add(-1, v1::FINAL_NORM));
  if (!model.tied_embeddings()) OCTAVO_RETURN_IF_ERROR(add(-1, v1::LM_HEAD));
  if (selected.front()->scheme) {
    return MakeError(Reason::kUnsupported, "cannot serve a quantized embedding",
                     {.tensor = selected.front()->tensor.spec().name()});
  }
  return selected;
}

}  // namespace octavo
