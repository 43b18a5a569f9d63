#include "worker/runner/weights.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <tuple>

#include "core/base/error.h"
#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"
#include "worker/runner/read_tensor.h"

namespace octavo {
namespace {

// INT8 products must not leave INT32: 2^17 terms of 128 x 127.
constexpr int64_t kInt8DepthMax = 1 << 17;

// Rows read and packed at a time: a multiple of a group, about 1 MiB.
int64_t RowsAtATime(int64_t row_bytes) {
  const int64_t rows = (1 << 20) / std::max<int64_t>(row_bytes, 1);
  return std::max<int64_t>(rows / kTileChannels, 1) * kTileChannels;
}

// The slice of a transposed tensor along the axes on disk.
v1::RankTensor AsStored(v1::RankTensor tensor) {
  if (tensor.has_slice()) tensor.mutable_slice()->set_axis(1 - tensor.slice().axis());
  return tensor;
}

SliceBounds Transposed(const SliceBounds& stored) {
  return {stored.columns,    stored.rows,      stored.column_begin,
          stored.column_end, stored.row_begin, stored.row_end};
}

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
        files_(files),
        arena_(arena),
        pool_(pool) {
    for (const v1::RankTensor& tensor : rank_plan_.tensors()) {
      const v1::ModelTensor& one = tensor.tensor();
      by_role_[{one.layer(), static_cast<int>(one.role()), one.expert()}] = &tensor;
    }
  }

  absl::StatusOr<WeightSet> Load() {
    WeightSet set;
    const int64_t hidden = plan_.model().hidden_size();
    const DepthCut whole = {{hidden, 1}, {0, 1}};
    set.tied = plan_.model().tied_embeddings();
    OCTAVO_RETURN_IF_ERROR(LoadLinear({-1, set.tied ? v1::EMBEDDING : v1::LM_HEAD},
                                      v1::ROLE_UNSPECIFIED, whole, &set.head));
    if (!set.tied) OCTAVO_RETURN_IF_ERROR(LoadRows({-1, v1::EMBEDDING}, &set.embedding));
    OCTAVO_ASSIGN_OR_RETURN(set.final_norm, LoadVector({-1, v1::FINAL_NORM}));
    set.layers.resize(static_cast<size_t>(plan_.model().layer_count()));
    for (int layer = 0; layer < plan_.model().layer_count(); ++layer) {
      OCTAVO_RETURN_IF_ERROR(LoadLayer(layer, whole, &set.layers[static_cast<size_t>(layer)]));
    }
    return set;
  }

  absl::StatusOr<LayerWeights> LoadOnlyLayer() {
    LayerWeights layer;
    OCTAVO_RETURN_IF_ERROR(LoadLayer(0, {{plan_.model().hidden_size(), 1}, {0, 1}}, &layer));
    return layer;
  }

 private:
  struct Place {
    int32_t layer = -1;
    v1::TensorRole role = v1::ROLE_UNSPECIFIED;
    int32_t expert = -1;
  };

  const v1::RankTensor* Find(Place place) const {
    const auto found = by_role_.find({place.layer, static_cast<int>(place.role), place.expert});
    return found == by_role_.end() ? nullptr : found->second;
  }

  absl::StatusOr<const v1::RankTensor*> Need(Place place) const {
    const v1::RankTensor* tensor = Find(place);
    if (tensor != nullptr) return tensor;
    return MakeError(Reason::kInternal, fmt::format("the serving plan lacks {} of layer {}",
                                                    v1::TensorRole_Name(place.role), place.layer));
  }

  absl::Status LoadLayer(int layer, const DepthCut& whole, LayerWeights* out) {
    const DepthCut attention = {
        {plan_.attention_unit_size(), static_cast<int>(plan_.attention_unit_count())},
        {static_cast<int>(rank_plan_.attention_unit_begin()),
         static_cast<int>(rank_plan_.attention_unit_end())}};
    const DepthCut mlp = {{plan_.mlp_unit_size(), static_cast<int>(plan_.mlp_unit_count())},
                          {static_cast<int>(rank_plan_.mlp_unit_begin()),
                           static_cast<int>(rank_plan_.mlp_unit_end())}};
    OCTAVO_ASSIGN_OR_RETURN(out->attention_norm, LoadVector({layer, v1::ATTENTION_NORM}));
    OCTAVO_ASSIGN_OR_RETURN(out->mlp_norm, LoadVector({layer, v1::MLP_NORM}));
    if (Find({layer, v1::Q_NORM}) != nullptr) {
      OCTAVO_ASSIGN_OR_RETURN(out->query_norm, LoadVector({layer, v1::Q_NORM}));
      OCTAVO_ASSIGN_OR_RETURN(out->key_norm, LoadVector({layer, v1::K_NORM}));
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

  absl::StatusOr<std::vector<uint16_t>> LoadVector(Place place) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::RankTensor* tensor, Need(place));
    return ReadVector(files_, *tensor);
  }

  absl::Status LoadRows(Place place, Buffer* out) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::RankTensor* tensor, Need(place));
    const SliceReader reader(files_, *tensor);
    const SliceBounds& bounds = reader.bounds();
    const int64_t rows = bounds.row_end - bounds.row_begin;
    OCTAVO_ASSIGN_OR_RETURN(*out, arena_->Allocate(static_cast<uint64_t>(rows * reader.row_bytes()),
                                                   tensor->tensor().spec().name()));
    return ForRows(reader, [&](int64_t row, std::span<const std::byte> bytes) {
      std::memcpy(out->data() + row * reader.row_bytes(), bytes.data(), bytes.size());
    });
  }

  // Calls body(row within the slice, its bytes) for all rows, groups of 16 rows on one thread.
  template <typename Body>
  absl::Status ForRows(const SliceReader& reader, Body body) {
    const SliceBounds& bounds = reader.bounds();
    const int64_t rows = bounds.row_end - bounds.row_begin;
    const int64_t step = RowsAtATime(reader.row_bytes());
    Mutex mutex;
    absl::Status failure;
    std::atomic<bool> failed = false;
    pool_->ParallelFor((rows + step - 1) / step, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<std::byte> bytes;
      for (int64_t index = begin; index < end && !failed; ++index) {
        const int64_t first = index * step;
        const int64_t last = std::min(first + step, rows);
        const absl::Status status =
            reader.ReadRows(bounds.row_begin + first, bounds.row_begin + last, &bytes);
        if (!status.ok()) {
          const MutexLock lock(mutex);
          if (!failed.exchange(true)) failure = status;
          return;
        }
        const auto size = static_cast<size_t>(reader.row_bytes());
        for (int64_t row = first; row < last; ++row) {
          body(row, std::span(bytes).subspan(static_cast<size_t>(row - first) * size, size));
        }
      }
    });
    return failure;
  }

  absl::Status LoadLinear(Place place, v1::TensorRole bias_role, const DepthCut& cut, Linear* out) {
    OCTAVO_ASSIGN_OR_RETURN(const v1::RankTensor* tensor, Need(place));
    const bool transposed = tensor->tensor().transposed();
    const v1::RankTensor stored = transposed ? AsStored(*tensor) : *tensor;
    const SliceReader reader(files_, stored);
    const SliceBounds bounds = transposed ? Transposed(reader.bounds()) : reader.bounds();
    OCTAVO_RETURN_IF_ERROR(Shape(*tensor, bounds, cut, out));
    OCTAVO_ASSIGN_OR_RETURN(
        out->tiles,
        arena_->Allocate(static_cast<uint64_t>(out->packed.group_count * out->packed.block_count *
                                               TileBytes(out->packed.type)),
                         out->name));
    out->packed.tiles = out->tiles.data();
    if (out->form == InputForm::kInt8Token) {
      out->channel_sums.resize(static_cast<size_t>(out->padded_channels()));
      out->packed.channel_sums = out->channel_sums.data();
    }
    OCTAVO_RETURN_IF_ERROR(transposed ? PackColumns(reader, out) : PackRows(reader, out));
    if (tensor->has_scheme()) OCTAVO_RETURN_IF_ERROR(LoadScales(*tensor, bounds, out));
    const v1::RankTensor* bias =
        bias_role == v1::ROLE_UNSPECIFIED ? nullptr : Find({place.layer, bias_role});
    if (bias == nullptr) return absl::OkStatus();
    OCTAVO_ASSIGN_OR_RETURN(const std::vector<uint16_t> values, ReadVector(files_, *bias));
    for (const uint16_t value : values) out->bias.push_back(F32FromBf16(value));
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
    const v1::Scheme& scheme = tensor.scheme();
    out->block_scaled = scheme.weight().granularity() == v1::PER_BLOCK;
    const bool plain_input = !scheme.has_input() ||
                             scheme.input().type() == v1::NUMERIC_UNSPECIFIED ||
                             scheme.input().type() == v1::NUMERIC_KEEP;
    if (scheme.weight().type() == v1::NUMERIC_INT8) {
      out->packed.type = WeightType::kInt8;
      out->form = InputForm::kInt8Token;
      out->pieces = {{0, out->unit_count}};  // exact: one sum is enough
      if (bounds.columns > kInt8DepthMax) {
        return MakeError(Reason::kUnsupported, "an INT8 product deeper than 131072",
                         {.tensor = out->name});
      }
      return absl::OkStatus();
    }
    out->packed.type = WeightType::kFp8;
    if (plain_input) return absl::OkStatus();
    out->form = !scheme.input().dynamic() ? InputForm::kFp8Static
                : out->block_scaled       ? InputForm::kFp8Group
                                          : InputForm::kFp8Token;
    return absl::OkStatus();
  }

  absl::Status PackRows(const SliceReader& reader, Linear* out) {
    return ForRows(reader,
                   [&](int64_t row, std::span<const std::byte> bytes) { Pack(row, bytes, out); });
  }

  // The stored rows are inputs: 32 of them at a time are turned into a run of every channel.
  // REQUIRES BF16 or FP8 (unfuse.h lets nothing else through).
  absl::Status PackColumns(const SliceReader& reader, Linear* out) {
    const int64_t blocks = CeilDiv(out->depth, kTileDepth);
    Mutex mutex;
    absl::Status failure;
    pool_->ParallelFor(blocks, 1, [&](int64_t begin, int64_t end, int) {
      std::vector<std::byte> bytes;
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kTileDepth;
        const int64_t count = std::min(kTileDepth, out->depth - first);
        const int64_t row = reader.bounds().row_begin + first;
        const absl::Status status = reader.ReadRows(row, row + count, &bytes);
        if (!status.ok()) {
          const MutexLock lock(mutex);
          failure.Update(status);
          return;
        }
        PackBlock(bytes, first, count, out);
      }
    });
    return failure;
  }

  // `bytes`: [count][channels] elements, the inputs from `first` on, which lie in one 32-block.
  static void PackBlock(std::span<const std::byte> bytes, int64_t first, int64_t count,
                        Linear* out) {
    const int64_t unit = first / out->unit_size;
    const int64_t at = unit * out->blocks_per_unit * kTileDepth + (first - unit * out->unit_size);
    const int64_t size = ElementBytes(out->packed.type);
    alignas(2) std::byte column[2 * kTileDepth];
    for (int64_t channel = 0; channel < out->channels; ++channel) {
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(column + i * size, bytes.data() + (i * out->channels + channel) * size,
                    static_cast<size_t>(size));
      }
      PackChannel(out->packed, out->tiles.data(), channel, at, column, count);
    }
  }

  static void Pack(int64_t row, std::span<const std::byte> bytes, Linear* out) {
    const int64_t size = ElementBytes(out->packed.type);
    for (int unit = 0; unit < out->unit_count; ++unit) {
      const int64_t begin = unit * out->unit_size;
      const int64_t count = std::min(out->unit_size, out->depth - begin);
      PackChannel(out->packed, out->tiles.data(), row, unit * out->blocks_per_unit * kTileDepth,
                  bytes.data() + begin * size, count);
    }
    if (out->form != InputForm::kInt8Token) return;
    int32_t sum = 0;
    for (const std::byte code : bytes) sum += static_cast<int8_t>(code);
    out->channel_sums[static_cast<size_t>(row)] = sum;
  }

  absl::Status LoadScales(const v1::RankTensor& tensor, const SliceBounds& bounds, Linear* out) {
    const v1::NumericFormat& format = tensor.scheme().weight();
    const auto padded = static_cast<size_t>(out->padded_channels());
    if (!tensor.has_scale() || (out->form == InputForm::kFp8Static && !tensor.has_input_scale())) {
      return MakeError(Reason::kBadCheckpoint, "a quantized weight without a scale",
                       {.tensor = out->name});
    }
    if (out->form == InputForm::kFp8Static) {
      OCTAVO_ASSIGN_OR_RETURN(const auto scales, ReadScales(files_, tensor.input_scale(), 1));
      out->static_scale = scales.front();
    }
    if (!out->block_scaled) {
      const bool one = format.granularity() == v1::PER_TENSOR;
      OCTAVO_ASSIGN_OR_RETURN(const auto scales,
                              ReadScales(files_, tensor.scale(), one ? 1 : bounds.rows));
      out->channel_scales.assign(padded, 0.0f);
      for (int64_t i = 0; i < out->channels; ++i) {
        out->channel_scales[static_cast<size_t>(i)] =
            scales[one ? 0 : static_cast<size_t>(bounds.row_begin + i)];
      }
      return absl::OkStatus();
    }
    const int64_t across = CeilDiv(bounds.columns, kScaleBlock);
    const int64_t down = CeilDiv(bounds.rows, kScaleBlock);
    OCTAVO_ASSIGN_OR_RETURN(const auto scales, ReadScales(files_, tensor.scale(), across * down));
    const int64_t blocks = CeilDiv(out->packed.block_count, 4);
    const int64_t first = bounds.column_begin / kScaleBlock;
    out->block_scales.assign(static_cast<size_t>(blocks) * padded, 0.0f);
    for (int64_t block = 0; block < blocks; ++block) {
      for (int64_t i = 0; i < out->channels; ++i) {
        const int64_t row = (bounds.row_begin + i) / kScaleBlock;
        out->block_scales[static_cast<size_t>(block) * padded + static_cast<size_t>(i)] =
            scales[static_cast<size_t>(row * across + first + block)];
      }
    }
    return absl::OkStatus();
  }

  const v1::ServePlan& plan_;
  const v1::RankPlan& rank_plan_;
  ShardFiles* files_;
  Arena* arena_;
  ThreadPool* pool_;
  std::map<std::tuple<int32_t, int, int32_t>, const v1::RankTensor*> by_role_;
};

}  // namespace

uint64_t WeightSet::step_bytes(int64_t experts_per_token) const {
  uint64_t bytes = head.bytes();
  for (const LayerWeights& layer : layers) {
    for (const Linear* linear :
         {&layer.query, &layer.key, &layer.value, &layer.output, &layer.router}) {
      bytes += linear->bytes();
    }
    const ExpertWeights& one = layer.experts.front();
    const auto visits = static_cast<uint64_t>(layer.has_router() ? experts_per_token : 1);
    bytes += visits * (one.gate.bytes() + one.up.bytes() + one.down.bytes());
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
                                      Arena* arena, ThreadPool* pool) {
  return Loader(plan, rank, files, arena, pool).Load();
}

absl::StatusOr<LayerWeights> LoadLayer(const v1::ServePlan& plan, ShardFiles* files, Arena* arena,
                                       ThreadPool* pool) {
  return Loader(plan, 0, files, arena, pool).LoadOnlyLayer();
}

}  // namespace octavo
