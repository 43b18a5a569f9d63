#include "worker/gpu/gpu_weights.h"

#include <utility>

#include "core/base/status.h"
#include "worker/runner/pack_weights.h"
#include "worker/runner/rank_tensors.h"
#include "worker/runner/read_tensor.h"

namespace octavo {
namespace {

class Loader {
 public:
  Loader(const v1::ServePlan& plan, ShardFiles* files, ThreadPool* pool)
      : plan_(plan), tensors_(plan.ranks(0), files), files_(files), pool_(pool) {}

  absl::StatusOr<GpuWeights> Load() {
    GpuWeights all;
    const v1::ModelSpec& model = plan_.model();
    const v1::TensorRole head = model.tied_embeddings() ? v1::EMBEDDING : v1::LM_HEAD;
    OCTAVO_RETURN_IF_ERROR(LoadLinear({-1, head}, v1::ROLE_UNSPECIFIED, &all.head));
    if (!model.tied_embeddings()) {
      GpuLinear table;
      OCTAVO_RETURN_IF_ERROR(LoadLinear({-1, v1::EMBEDDING}, v1::ROLE_UNSPECIFIED, &table));
      all.embedding = std::move(table.weights);
    }
    OCTAVO_ASSIGN_OR_RETURN(all.final_norm, LoadVector({-1, v1::FINAL_NORM}));
    for (int i = 0; i < model.layer_count(); ++i) {
      OCTAVO_RETURN_IF_ERROR(LoadLayer(i, &all.layers.emplace_back()));
    }
    return all;
  }

 private:
  using Place = RankTensors::Place;

  absl::Status LoadLayer(int i, GpuLayer* layer) {
    OCTAVO_ASSIGN_OR_RETURN(layer->attention_norm, LoadVector({i, v1::ATTENTION_NORM}));
    OCTAVO_ASSIGN_OR_RETURN(layer->mlp_norm, LoadVector({i, v1::MLP_NORM}));
    if (tensors_.Find({i, v1::Q_NORM}) != nullptr) {
      OCTAVO_ASSIGN_OR_RETURN(layer->query_norm, LoadVector({i, v1::Q_NORM}));
      OCTAVO_ASSIGN_OR_RETURN(layer->key_norm, LoadVector({i, v1::K_NORM}));
    }
    OCTAVO_RETURN_IF_ERROR(LoadLinear({i, v1::Q_PROJ}, v1::Q_BIAS, &layer->query));
    OCTAVO_RETURN_IF_ERROR(LoadLinear({i, v1::K_PROJ}, v1::K_BIAS, &layer->key));
    OCTAVO_RETURN_IF_ERROR(LoadLinear({i, v1::V_PROJ}, v1::V_BIAS, &layer->value));
    OCTAVO_RETURN_IF_ERROR(LoadLinear({i, v1::O_PROJ}, v1::O_BIAS, &layer->output));
    layer->output.units = {plan_.attention_unit_size(),
                           static_cast<int>(plan_.attention_unit_count())};
    if (plan_.model().expert_count() == 0) {
      OCTAVO_RETURN_IF_ERROR(LoadLinear({i, v1::GATE_PROJ}, v1::GATE_BIAS, &layer->gate));
      OCTAVO_RETURN_IF_ERROR(LoadLinear({i, v1::UP_PROJ}, v1::UP_BIAS, &layer->up));
      OCTAVO_RETURN_IF_ERROR(LoadLinear({i, v1::DOWN_PROJ}, v1::DOWN_BIAS, &layer->down));
    } else {
      OCTAVO_RETURN_IF_ERROR(LoadLinear({i, v1::ROUTER}, v1::ROLE_UNSPECIFIED, &layer->router));
      OCTAVO_RETURN_IF_ERROR(LoadExperts(i, v1::EXPERT_GATE, &layer->gate));
      OCTAVO_RETURN_IF_ERROR(LoadExperts(i, v1::EXPERT_UP, &layer->up));
      OCTAVO_RETURN_IF_ERROR(LoadExperts(i, v1::EXPERT_DOWN, &layer->down));
    }
    layer->down.units = {plan_.mlp_unit_size(), static_cast<int>(plan_.mlp_unit_count())};
    return absl::OkStatus();
  }

  absl::StatusOr<DeviceArray<uint16_t>> LoadVector(Place place) {
    OCTAVO_ASSIGN_OR_RETURN(const std::vector<uint16_t> values, tensors_.Vector(place));
    return DeviceArray<uint16_t>::Of(values, v1::TensorRole_Name(place.role));
  }

  absl::Status LoadLinear(Place place, v1::TensorRole bias_role, GpuLinear* out) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::RankTensor* tensor, tensors_.Need(place));
    OCTAVO_RETURN_IF_ERROR(Shape(*tensor, out));
    OCTAVO_RETURN_IF_ERROR(LoadParts(std::span(&tensor, 1), out));
    OCTAVO_ASSIGN_OR_RETURN(const auto bias, tensors_.Bias({place.layer, bias_role}));
    if (bias.empty()) return absl::OkStatus();
    OCTAVO_ASSIGN_OR_RETURN(out->bias, DeviceArray<float>::Of(bias, out->name));
    return absl::OkStatus();
  }

  absl::Status LoadExperts(int layer, v1::TensorRole role, GpuLinear* out) {
    std::vector<const v1::RankTensor*> parts;
    for (int32_t e = 0; e < plan_.model().expert_count(); ++e) {
      OCTAVO_ASSIGN_OR_RETURN(parts.emplace_back(), tensors_.Need({layer, role, e}));
      GpuLinear other;
      OCTAVO_RETURN_IF_ERROR(Shape(*parts.back(), e == 0 ? out : &other));
      if (e > 0 && (other.form != out->form || other.types != out->types)) {
        return Unsupported(other, "experts of different formats");
      }
    }
    out->experts = static_cast<int>(parts.size());
    return LoadParts(parts, out);
  }

  static absl::Status Unsupported(const GpuLinear& linear, std::string_view what) {
    return MakeError(Reason::kUnsupported, fmt::format("on a GPU: {}", what),
                     {.tensor = linear.name});
  }

  // All of `out` but what is read from the files.
  static absl::Status Shape(const v1::RankTensor& tensor, GpuLinear* out) {
    out->name = tensor.tensor().spec().name();
    out->form = InputFormOf(tensor);
    const SliceBounds bounds = ChannelBounds(tensor);
    out->channels = bounds.row_end - bounds.row_begin;
    out->depth = out->stride = bounds.column_end - bounds.column_begin;
    out->units = {out->depth, 1};
    if (tensor.quantized_at_load()) return Unsupported(*out, "weights quantized at load");
    if (out->depth % 16 != 0) return Unsupported(*out, "a width that is no multiple of 16");
    if (!tensor.has_scheme()) return absl::OkStatus();
    const bool blocks = tensor.scheme().weight().granularity() == v1::PER_BLOCK;
    if (blocks && bounds.row_begin % kScaleBlock != 0) {
      return Unsupported(*out, "block scales of a slice that begins within a block");
    }
    switch (out->form) {
      case InputForm::kBf16:
        if (blocks) return Unsupported(*out, "weight-only block scales");
        out->types = cuda::DenseTypes::kBf16Fp8;
        return absl::OkStatus();
      case InputForm::kInt8Token:
        out->types = cuda::DenseTypes::kInt8;
        return absl::OkStatus();
      case InputForm::kFp8Token:
      case InputForm::kFp8Group:
      case InputForm::kFp8Static:
        out->types = blocks ? cuda::DenseTypes::kFp8Blocks : cuda::DenseTypes::kFp8;
        return absl::OkStatus();
    }
    return absl::OkStatus();
  }

  // Weights and scales of all parts, alike in form and shape, one after the other.
  absl::Status LoadParts(std::span<const v1::RankTensor* const> parts, GpuLinear* out) {
    const bool wide = out->types == cuda::DenseTypes::kBf16;
    const auto bytes = static_cast<size_t>(out->channels * out->stride * (wide ? 2 : 1));
    OCTAVO_ASSIGN_OR_RETURN(out->weights,
                            DeviceArray<std::byte>::Create(parts.size() * bytes, out->name));
    std::vector<std::byte> rows(bytes);
    std::vector<float> scales, input_scales, input_factors;
    for (size_t i = 0; i < parts.size(); ++i) {
      OCTAVO_RETURN_IF_ERROR(ReadWeight(files_, *parts[i], pool_, rows.data()));
      OCTAVO_RETURN_IF_ERROR(out->weights.Fill(rows, nullptr, i * bytes));
      if (!parts[i]->has_scheme()) continue;
      OCTAVO_ASSIGN_OR_RETURN(const std::vector<float> own, ScalesOf(*parts[i], out));
      scales.insert(scales.end(), own.begin(), own.end());
      input_scales.push_back(out->static_scale);
      input_factors.push_back(1.0f / out->static_scale);
    }
    if (scales.empty()) return absl::OkStatus();
    OCTAVO_ASSIGN_OR_RETURN(out->scales, DeviceArray<float>::Of(scales, out->name));
    if (out->experts == 0) return absl::OkStatus();
    OCTAVO_ASSIGN_OR_RETURN(out->input_scales, DeviceArray<float>::Of(input_scales, out->name));
    OCTAVO_ASSIGN_OR_RETURN(out->input_factors, DeviceArray<float>::Of(input_factors, out->name));
    return absl::OkStatus();
  }

  // The weight's scales as the kernels read them.
  absl::StatusOr<std::vector<float>> ScalesOf(const v1::RankTensor& tensor, GpuLinear* out) {
    const SliceBounds bounds = ChannelBounds(tensor);
    OCTAVO_ASSIGN_OR_RETURN(WeightScales scales, ReadWeightScales(files_, tensor, bounds));
    out->static_scale = scales.input;
    if (scales.blocks.empty()) return std::move(scales.channels);
    out->scale_stride = CeilDiv(bounds.columns, kScaleBlock);
    const auto first = scales.blocks.begin() + bounds.row_begin / kScaleBlock * out->scale_stride;
    const int64_t count = CeilDiv(out->channels, kScaleBlock) * out->scale_stride;
    return std::vector<float>(first, first + count);
  }

  const v1::ServePlan& plan_;
  const RankTensors tensors_;
  ShardFiles* files_;
  ThreadPool* pool_;
};

}  // namespace

absl::StatusOr<GpuWeights> LoadGpuWeights(const v1::ServePlan& plan, ShardFiles* files,
                                          ThreadPool* pool) {
  if (plan.ranks_size() != 1) {
    return MakeError(Reason::kUnsupported, "on a GPU: several ranks of one model");
  }
  return Loader(plan, files, pool).Load();
}

}  // namespace octavo
