#include "worker/runner/weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"
#include "worker/runner/pack_weights.h"
#include "worker/runner/quantize_at_load.h"
#include "worker/runner/rank_tensors.h"
#include "worker/runner/read_tensor.h"

namespace octavo {
namespace {

// INT8 products must not leave INT32: 2^17 terms of 128 x 127.
constexpr int64_t kInt8DepthMax = 1 << 17;

// How K of one layer is cut: the whole product's units, and the run that this rank owns.
struct DepthCut {
  UnitCut units;
  LeafRun run;
};

class Loader {
 public:
  Loader(const v1::ServePlan& plan, uint32_t rank, ShardFiles* files, Arena* arena,
         ThreadPool* pool)
      : plan_(plan),
        rank_plan_(plan.ranks(static_cast<int>(rank))),
        tensors_(rank_plan_, files),
        files_(files),
        arena_(arena),
        pool_(pool) {}

  absl::StatusOr<WeightSet> Load(Isa isa) {
    isa_ = isa;
    WeightSet set;
    const int64_t hidden = plan_.model().hidden_size();
    const DepthCut whole = {{hidden, 1}, {0, 1}};
    set.tied = plan_.model().tied_embeddings();
    OCTAVO_RETURN_IF_ERROR(LoadLinear({-1, set.tied ? v1::EMBEDDING : v1::LM_HEAD},
                                      v1::ROLE_UNSPECIFIED, whole, &set.head));
    if (!set.tied) OCTAVO_RETURN_IF_ERROR(LoadRows({-1, v1::EMBEDDING}, &set.embedding));
    OCTAVO_ASSIGN_OR_RETURN(set.final_norm, tensors_.Vector({-1, v1::FINAL_NORM}));
    set.layers.resize(static_cast<size_t>(plan_.model().layer_count()));
    for (int layer = 0; layer < plan_.model().layer_count(); ++layer) {
      OCTAVO_RETURN_IF_ERROR(LoadLayer(layer, whole, &set.layers[static_cast<size_t>(layer)]));
    }
    return set;
  }

  absl::StatusOr<LayerWeights> LoadOnlyLayer(Residency residency) {
    streamed_ = residency == Residency::kStreamed;
    LayerWeights layer;
    OCTAVO_RETURN_IF_ERROR(LoadLayer(0, {{plan_.model().hidden_size(), 1}, {0, 1}}, &layer));
    return layer;
  }

 private:
  using Place = RankTensors::Place;

  absl::Status LoadLayer(int layer, const DepthCut& whole, LayerWeights* out) {
    const DepthCut attention = {
        {plan_.attention_unit_size(), static_cast<int>(plan_.attention_unit_count())},
        {static_cast<int>(rank_plan_.attention_unit_begin()),
         static_cast<int>(rank_plan_.attention_unit_end())}};
    const DepthCut mlp = {{plan_.mlp_unit_size(), static_cast<int>(plan_.mlp_unit_count())},
                          {static_cast<int>(rank_plan_.mlp_unit_begin()),
                           static_cast<int>(rank_plan_.mlp_unit_end())}};
    OCTAVO_ASSIGN_OR_RETURN(out->attention_norm, tensors_.Vector({layer, v1::ATTENTION_NORM}));
    OCTAVO_ASSIGN_OR_RETURN(out->mlp_norm, tensors_.Vector({layer, v1::MLP_NORM}));
    if (tensors_.Find({layer, v1::Q_NORM}) != nullptr) {
      OCTAVO_ASSIGN_OR_RETURN(out->query_norm, tensors_.Vector({layer, v1::Q_NORM}));
      OCTAVO_ASSIGN_OR_RETURN(out->key_norm, tensors_.Vector({layer, v1::K_NORM}));
    }
    OCTAVO_RETURN_IF_ERROR(LoadLinear({layer, v1::Q_PROJ}, v1::Q_BIAS, whole, &out->query));
    OCTAVO_RETURN_IF_ERROR(LoadLinear({layer, v1::K_PROJ}, v1::K_BIAS, whole, &out->key));
    OCTAVO_RETURN_IF_ERROR(LoadLinear({layer, v1::V_PROJ}, v1::V_BIAS, whole, &out->value));
    OCTAVO_RETURN_IF_ERROR(LoadLinear({layer, v1::O_PROJ}, v1::O_BIAS, attention, &out->output));
    const auto experts = static_cast<int32_t>(plan_.model().expert_count());
    out->experts.resize(static_cast<size_t>(std::max(experts, 1)));
    if (experts == 0) {
      ExpertWeights* own = out->experts.data();
      OCTAVO_RETURN_IF_ERROR(LoadLinear({layer, v1::GATE_PROJ}, v1::GATE_BIAS, whole, &own->gate));
      OCTAVO_RETURN_IF_ERROR(LoadLinear({layer, v1::UP_PROJ}, v1::UP_BIAS, whole, &own->up));
      return LoadLinear({layer, v1::DOWN_PROJ}, v1::DOWN_BIAS, mlp, &own->down);
    }
    constexpr v1::TensorRole kNoBias = v1::ROLE_UNSPECIFIED;
    OCTAVO_RETURN_IF_ERROR(LoadLinear({layer, v1::ROUTER}, kNoBias, whole, &out->router));
    for (int32_t e = 0; e < experts; ++e) {
      ExpertWeights* own = &out->experts[static_cast<size_t>(e)];
      OCTAVO_RETURN_IF_ERROR(LoadLinear({layer, v1::EXPERT_GATE, e}, kNoBias, whole, &own->gate));
      OCTAVO_RETURN_IF_ERROR(LoadLinear({layer, v1::EXPERT_UP, e}, kNoBias, whole, &own->up));
      OCTAVO_RETURN_IF_ERROR(LoadLinear({layer, v1::EXPERT_DOWN, e}, kNoBias, mlp, &own->down));
    }
    return absl::OkStatus();
  }

  absl::Status LoadRows(Place place, Buffer* out) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::RankTensor* tensor, tensors_.Need(place));
    const SliceReader reader(files_, *tensor);
    const int64_t rows = reader.bounds().row_end - reader.bounds().row_begin;
    OCTAVO_ASSIGN_OR_RETURN(*out, arena_->Allocate(static_cast<uint64_t>(rows * reader.row_bytes()),
                                                   tensor->tensor().spec().name()));
    return ReadWeight(files_, *tensor, pool_, out->data());
  }

  absl::Status LoadLinear(Place place, v1::TensorRole bias_role, const DepthCut& cut, Linear* out) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::RankTensor* tensor, tensors_.Need(place));
    const SliceBounds bounds = ChannelBounds(*tensor);
    OCTAVO_RETURN_IF_ERROR(Shape(*tensor, bounds, cut, out));
    if (streamed_) {
      out->streamed = tensor;
      return LoadBias({place.layer, bias_role}, out);
    }
    OCTAVO_ASSIGN_OR_RETURN(out->tiles, arena_->Allocate(out->packed.bytes(), out->name));
    out->packed.tiles = out->tiles.data();
    if (out->form == InputForm::kInt8Token) {
      out->channel_sums.resize(static_cast<size_t>(out->padded_channels()));
      out->packed.channel_sums = out->channel_sums.data();
    }
    if (tensor->quantized_at_load()) {
      OCTAVO_RETURN_IF_ERROR(QuantizeAtLoad(files_, *tensor, isa_, pool_, out->tiles.data(), out));
      return LoadBias({place.layer, bias_role}, out);
    }
    OCTAVO_RETURN_IF_ERROR(PackWeight(files_, *tensor, pool_, out->tiles.data(), out));
    if (tensor->has_scheme()) OCTAVO_RETURN_IF_ERROR(LoadScales(*tensor, bounds, out));
    return LoadBias({place.layer, bias_role}, out);
  }

  absl::Status LoadBias(Place place, Linear* out) {
    OCTAVO_ASSIGN_OR_RETURN(out->bias, tensors_.Bias(place));
    return absl::OkStatus();
  }

  // Fills everything of `out` that follows from the plan.
  absl::Status Shape(const v1::RankTensor& tensor, const SliceBounds& bounds, const DepthCut& cut,
                     Linear* out) {
    out->name = tensor.tensor().spec().name();
    out->channels = bounds.row_end - bounds.row_begin;
    out->depth = bounds.column_end - bounds.column_begin;
    out->unit_size = cut.units.size;
    out->unit_count = cut.run.end - cut.run.begin;
    out->blocks_per_unit = CeilDiv(cut.units.size, kTileDepth);
    for (const LeafRun& piece : MaximalSubtrees(cut.units.count, cut.run)) {
      out->pieces.push_back({piece.begin - cut.run.begin, piece.end - cut.run.begin});
    }
    const int64_t short_unit = out->depth - (out->unit_count - 1) * out->unit_size;
    out->packed.block_count =
        (out->unit_count - 1) * out->blocks_per_unit + CeilDiv(short_unit, kTileDepth);
    out->packed.group_count = CeilDiv(out->channels, kTileChannels);
    if (!tensor.has_scheme()) return absl::OkStatus();
    out->form = InputFormOf(tensor);
    out->block_scaled = tensor.scheme().weight().granularity() == v1::PER_BLOCK;
    out->packed.type = out->form == InputForm::kInt8Token ? WeightType::kInt8 : WeightType::kFp8;
    if (out->form != InputForm::kInt8Token) return absl::OkStatus();
    out->pieces = {{0, out->unit_count}};  // exact: one sum is enough
    if (bounds.columns > kInt8DepthMax) {
      return MakeError(Reason::kUnsupported, "an INT8 product deeper than 131072",
                       {.tensor = out->name});
    }
    return absl::OkStatus();
  }

  absl::Status LoadScales(const v1::RankTensor& tensor, const SliceBounds& bounds, Linear* out) {
    OCTAVO_ASSIGN_OR_RETURN(WeightScales scales, ReadWeightScales(files_, tensor, bounds));
    const auto padded = static_cast<size_t>(out->padded_channels());
    out->static_scale = scales.input;
    if (!out->block_scaled) {
      out->channel_scales = std::move(scales.channels);
      out->channel_scales.resize(padded, 0.0f);
      return absl::OkStatus();
    }
    const int64_t across = CeilDiv(bounds.columns, kScaleBlock);
    const int64_t blocks = CeilDiv(out->packed.block_count, 4);
    const int64_t first = bounds.column_begin / kScaleBlock;
    out->block_scales.assign(static_cast<size_t>(blocks) * padded, 0.0f);
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t i = 0; i < out->channels; ++i) {
        const int64_t row = (bounds.row_begin + i) / kScaleBlock;
        out->block_scales[static_cast<size_t>(block) * padded + static_cast<size_t>(i)] =
            scales.blocks[static_cast<size_t>(row * across + first + block)];
      }
    }
    return absl::OkStatus();
  }

  const v1::ServePlan& plan_;
  const v1::RankPlan& rank_plan_;
  const RankTensors tensors_;
  ShardFiles* files_;
  Arena* arena_;
  ThreadPool* pool_;
  bool streamed_ = false;
  Isa isa_ = Isa::kReference;
};

}  // namespace

WeightBytes WeightSet::held() const {
  WeightBytes bytes;
  bytes.bf16 += embedding.size();
  const auto add = [&](const Linear& linear) {
    switch (linear.packed.type) {
      case WeightType::kBf16:
        bytes.bf16 += linear.bytes();
        return;
      case WeightType::kFp8:
        bytes.fp8 += linear.bytes();
        return;
      case WeightType::kInt8:
        bytes.int8 += linear.bytes();
        return;
    }
  };
  add(head);
  for (const LayerWeights& layer : layers) {
    for (const Linear* linear :
         {&layer.query, &layer.key, &layer.value, &layer.output, &layer.router}) {
      add(*linear);
    }
    for (const ExpertWeights& expert : layer.experts) {
      for (const Linear* linear : {&expert.gate, &expert.up, &expert.down}) add(*linear);
    }
  }
  return bytes;
}

void WeightSet::EmbeddingRow(int64_t row, int64_t hidden, uint16_t* out) const {
  if (!tied) {
    std::memcpy(out, embedding.as<uint16_t>() + row * hidden, static_cast<size_t>(hidden) * 2);
    return;
  }
  for (int64_t k = 0; k < hidden; ++k) {
    const std::byte* tile = head.packed.Tile(row / kTileChannels, k / kTileDepth);
    std::memcpy(out + k, tile + TileOffset(WeightType::kBf16, row % kTileChannels, k % kTileDepth),
                2);
  }
}

absl::StatusOr<WeightSet> LoadWeights(const v1::ServePlan& plan, uint32_t rank, ShardFiles* files,
                                      Arena* arena, ThreadPool* pool, Isa isa) {
  return Loader(plan, rank, files, arena, pool).Load(isa);
}

absl::StatusOr<LayerWeights> LoadLayer(const v1::ServePlan& plan, Residency residency,
                                       ShardFiles* files, Arena* arena, ThreadPool* pool) {
  return Loader(plan, 0, files, arena, pool).LoadOnlyLayer(residency);
}

}  // namespace octavo
