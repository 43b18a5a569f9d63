#include "worker/gpu/gpu_weights.h"

#include <cstring>
#include <map>
#include <utility>

#include "core/base/status.h"
#include "core/tensor/bare/float_bits.h"
#include "worker/runner/pack_weights.h"
#include "worker/runner/read_tensor.h"

namespace octavo {
namespace {

class Loader {
 public:
  Loader(const v1::ServePlan& plan, ShardFiles* files, ThreadPool* pool)
      : plan_(plan), files_(files), pool_(pool) {
    for (const v1::RankTensor& tensor : plan.ranks(0).tensors()) {
      by_role_[{tensor.tensor().layer(), static_cast<int>(tensor.tensor().role())}] = &tensor;
    }
  }

  absl::StatusOr<GpuWeights> Load() {
    GpuWeights all;
    const v1::ModelSpec& model = plan_.model();
    const UnitCut whole{model.hidden_size(), 1};
    const v1::TensorRole head = model.tied_embeddings() ? v1::EMBEDDING : v1::LM_HEAD;
    OCTAVO_RETURN_IF_ERROR(LoadLinear(-1, head, v1::ROLE_UNSPECIFIED, whole, &all.head));
    if (!model.tied_embeddings()) {
      GpuLinear table;
      OCTAVO_RETURN_IF_ERROR(LoadLinear(-1, v1::EMBEDDING, v1::ROLE_UNSPECIFIED, whole, &table));
      all.embedding = std::move(table.weights);
    }
    OCTAVO_ASSIGN_OR_RETURN(all.final_norm, LoadVector(-1, v1::FINAL_NORM));
    const UnitCut attention{plan_.attention_unit_size(),
                            static_cast<int>(plan_.attention_unit_count())};
    const UnitCut mlp{plan_.mlp_unit_size(), static_cast<int>(plan_.mlp_unit_count())};
    for (int i = 0; i < model.layer_count(); ++i) {
      GpuLayer& layer = all.layers.emplace_back();
      OCTAVO_ASSIGN_OR_RETURN(layer.attention_norm, LoadVector(i, v1::ATTENTION_NORM));
      OCTAVO_ASSIGN_OR_RETURN(layer.mlp_norm, LoadVector(i, v1::MLP_NORM));
      if (Find(i, v1::Q_NORM) != nullptr) {
        OCTAVO_ASSIGN_OR_RETURN(layer.query_norm, LoadVector(i, v1::Q_NORM));
        OCTAVO_ASSIGN_OR_RETURN(layer.key_norm, LoadVector(i, v1::K_NORM));
      }
      OCTAVO_RETURN_IF_ERROR(LoadLinear(i, v1::Q_PROJ, v1::Q_BIAS, whole, &layer.query));
      OCTAVO_RETURN_IF_ERROR(LoadLinear(i, v1::K_PROJ, v1::K_BIAS, whole, &layer.key));
      OCTAVO_RETURN_IF_ERROR(LoadLinear(i, v1::V_PROJ, v1::V_BIAS, whole, &layer.value));
      OCTAVO_RETURN_IF_ERROR(LoadLinear(i, v1::O_PROJ, v1::O_BIAS, attention, &layer.output));
      OCTAVO_RETURN_IF_ERROR(LoadLinear(i, v1::GATE_PROJ, v1::GATE_BIAS, whole, &layer.gate));
      OCTAVO_RETURN_IF_ERROR(LoadLinear(i, v1::UP_PROJ, v1::UP_BIAS, whole, &layer.up));
      OCTAVO_RETURN_IF_ERROR(LoadLinear(i, v1::DOWN_PROJ, v1::DOWN_BIAS, mlp, &layer.down));
    }
    return all;
  }

 private:
  const v1::RankTensor* Find(int layer, v1::TensorRole role) const {
    const auto found = by_role_.find({layer, static_cast<int>(role)});
    return found == by_role_.end() ? nullptr : found->second;
  }

  absl::StatusOr<DeviceArray<uint16_t>> LoadVector(int layer, v1::TensorRole role) {
    const v1::RankTensor* tensor = Find(layer, role);
    if (tensor == nullptr) return Missing(layer, role);
    OCTAVO_ASSIGN_OR_RETURN(const std::vector<uint16_t> values, ReadVector(files_, *tensor));
    return DeviceArray<uint16_t>::Of(values, tensor->tensor().spec().name());
  }

  static absl::Status Missing(int layer, v1::TensorRole role) {
    return MakeError(Reason::kInternal, fmt::format("the serving plan lacks {} of layer {}",
                                                    v1::TensorRole_Name(role), layer));
  }

  absl::Status LoadLinear(int layer, v1::TensorRole role, v1::TensorRole bias_role,
                          const UnitCut& units, GpuLinear* out) {
    const v1::RankTensor* tensor = Find(layer, role);
    if (tensor == nullptr) return Missing(layer, role);
    out->name = tensor->tensor().spec().name();
    out->units = units;
    if (tensor->tensor().transposed() || tensor->quantized_at_load()) {
      return Unsupported(*out, "weights that are transposed or quantized at load");
    }
    OCTAVO_RETURN_IF_ERROR(ChooseTypes(*tensor, out));
    const SliceReader reader(files_, *tensor);
    const SliceBounds& bounds = reader.bounds();
    out->channels = bounds.row_end - bounds.row_begin;
    out->depth = bounds.column_end - bounds.column_begin;
    out->stride = out->depth;
    if (out->depth % 16 != 0) return Unsupported(*out, "a width that is no multiple of 16");
    OCTAVO_RETURN_IF_ERROR(LoadRows(reader, out));
    if (tensor->has_scheme()) OCTAVO_RETURN_IF_ERROR(LoadScales(*tensor, bounds, out));
    const v1::RankTensor* bias =
        bias_role == v1::ROLE_UNSPECIFIED ? nullptr : Find(layer, bias_role);
    if (bias == nullptr) return absl::OkStatus();
    OCTAVO_ASSIGN_OR_RETURN(const std::vector<uint16_t> values, ReadVector(files_, *bias));
    std::vector<float> wide;
    for (const uint16_t value : values) wide.push_back(F32FromBf16(value));
    OCTAVO_ASSIGN_OR_RETURN(out->bias, DeviceArray<float>::Of(wide, out->name));
    return absl::OkStatus();
  }

  static absl::Status Unsupported(const GpuLinear& linear, std::string_view what) {
    return MakeError(Reason::kUnsupported, fmt::format("on a GPU: {}", what),
                     {.tensor = linear.name});
  }

  static absl::Status ChooseTypes(const v1::RankTensor& tensor, GpuLinear* out) {
    if (!tensor.has_scheme()) return absl::OkStatus();
    const v1::Scheme& scheme = tensor.scheme();
    const bool blocks = scheme.weight().granularity() == v1::PER_BLOCK;
    if (scheme.weight().type() == v1::NUMERIC_INT8) {
      out->types = cuda::DenseTypes::kInt8;
      out->form = InputForm::kInt8Token;
      return absl::OkStatus();
    }
    if (!scheme.has_input() || scheme.input().type() == v1::NUMERIC_UNSPECIFIED ||
        scheme.input().type() == v1::NUMERIC_KEEP) {
      if (blocks) return Unsupported(*out, "weight-only block scales");
      out->types = cuda::DenseTypes::kBf16Fp8;
      return absl::OkStatus();
    }
    out->types = blocks ? cuda::DenseTypes::kFp8Blocks : cuda::DenseTypes::kFp8;
    out->form = !scheme.input().dynamic() ? InputForm::kFp8Static
                : blocks                  ? InputForm::kFp8Group
                                          : InputForm::kFp8Token;
    return absl::OkStatus();
  }

  absl::Status LoadRows(const SliceReader& reader, GpuLinear* out) {
    const auto row_bytes = static_cast<size_t>(reader.row_bytes());
    std::vector<std::byte> rows(static_cast<size_t>(out->channels) * row_bytes);
    OCTAVO_RETURN_IF_ERROR(
        ForRows(reader, pool_, [&](int64_t row, std::span<const std::byte> bytes) {
          std::memcpy(rows.data() + static_cast<size_t>(row) * row_bytes, bytes.data(), row_bytes);
        }));
    OCTAVO_ASSIGN_OR_RETURN(out->weights, DeviceArray<std::byte>::Of(rows, out->name));
    return absl::OkStatus();
  }

  absl::Status LoadScales(const v1::RankTensor& tensor, const SliceBounds& bounds, GpuLinear* out) {
    const bool needs_input = out->form == InputForm::kFp8Static;
    if (!tensor.has_scale() || (needs_input && !tensor.has_input_scale())) {
      return MakeError(Reason::kBadCheckpoint, "a quantized weight without a scale",
                       {.tensor = out->name});
    }
    if (needs_input) {
      OCTAVO_ASSIGN_OR_RETURN(const auto input, ReadScales(files_, tensor.input_scale(), 1));
      out->static_scale = input.front();
    }
    const bool blocks = out->types == cuda::DenseTypes::kFp8Blocks;
    const bool one = tensor.scheme().weight().granularity() == v1::PER_TENSOR;
    out->scale_stride = CeilDiv(bounds.columns, kScaleBlock);
    const int64_t count = one      ? 1
                          : blocks ? CeilDiv(bounds.rows, kScaleBlock) * out->scale_stride
                                   : bounds.rows;
    OCTAVO_ASSIGN_OR_RETURN(auto scales, ReadScales(files_, tensor.scale(), count));
    if (one) scales.resize(static_cast<size_t>(out->channels), scales.front());
    OCTAVO_ASSIGN_OR_RETURN(out->scales, DeviceArray<float>::Of(scales, out->name));
    return absl::OkStatus();
  }

  const v1::ServePlan& plan_;
  ShardFiles* files_;
  ThreadPool* pool_;
  std::map<std::pair<int, int>, const v1::RankTensor*> by_role_;
};

}  // namespace

absl::StatusOr<GpuWeights> LoadGpuWeights(const v1::ServePlan& plan, ShardFiles* files,
                                          ThreadPool* pool) {
  if (plan.ranks_size() != 1) {
    return MakeError(Reason::kUnsupported, "on a GPU: several ranks of one model");
  }
  if (plan.model().expert_count() > 0) {
    return MakeError(Reason::kUnsupported, "on a GPU: mixtures of experts");
  }
  return Loader(plan, files, pool).Load();
}

}  // namespace octavo
