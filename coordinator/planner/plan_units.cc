#include <algorithm>
#include <array>
#include <map>
#include <tuple>

#include "coordinator/planner/plan_parts.h"
#include "core/base/limits.h"
#include "core/scheme/compat.h"
#include "core/tensor/bare/two_of_four.h"

namespace octavo {
namespace {

// The streams of units, in the order of their ids. Each fills its open unit before it starts the
// next one.
enum Stream { kStatAmax, kDirect, kStatMse, kCastAbsmax, kCastMse, kStreamCount };

struct StreamKind {
  uint32_t phase;
  v1::UnitKind kind;
};
constexpr std::array<StreamKind, kStreamCount> kStreams = {{{0, v1::UNIT_STAT_AMAX},
                                                            {0, v1::UNIT_CAST},
                                                            {1, v1::UNIT_STAT_MSE},
                                                            {1, v1::UNIT_CAST},
                                                            {2, v1::UNIT_CAST}}};

// Rows that have scales of their own: a whole tensor, or one expert of a quantized stack.
struct PlacedRows {
  const PlacedTensor* tensor = nullptr;
  int64_t begin = 0;
  int64_t end = 0;
  int32_t index = 0;  // of their per-tensor scale among the tensor's

  uint64_t source_bytes() const {
    return tensor->source_bytes() / static_cast<uint64_t>(tensor->rows()) *
           static_cast<uint64_t>(end - begin);
  }
};

// Tensors that share one scale (a per-tensor scale of one tensor is a set of one).
struct TieSet {
  std::vector<const PlacedRows*> members;  // in source order
  uint64_t bytes = 0;
};

// q/k/v, and gate/up (of one expert), are fused by servers and share a per-tensor scale. The key is
// (layer, expert, which), or a key of its own for every other run of rows, and for all unless
// `tied`.
std::tuple<int32_t, int32_t, int64_t> TieKey(const PlacedRows& rows, int64_t own, bool tied) {
  const v1::ModelTensor& source = *rows.tensor->source;
  if (!tied) return {source.layer(), source.expert(), own};
  switch (source.role()) {
    case v1::Q_PROJ:
    case v1::K_PROJ:
    case v1::V_PROJ:
      return {source.layer(), -1, -1};
    case v1::GATE_PROJ:
    case v1::UP_PROJ:
      return {source.layer(), -1, -2};
    case v1::EXPERT_GATE:
    case v1::EXPERT_UP:
      return {source.layer(), source.expert(), -2};
    case v1::STACKED_GATE:
    case v1::STACKED_UP:
      return {source.layer(), rows.index, -2};
    default:
      return {source.layer(), source.expert(), own};
  }
}

bool HasTensorScale(const PlacedTensor& tensor) {
  return tensor.scheme.scheme != nullptr &&
         tensor.scheme.scheme->weight().granularity() == v1::PER_TENSOR;
}

// The runs of rows of a tensor that have a scale of their own, or all of its rows.
void AppendRows(const PlacedTensor& tensor, std::vector<PlacedRows>* runs) {
  const bool stack = HasTensorScale(tensor) && IsStack(tensor.source->role());
  const int32_t count = stack ? static_cast<int32_t>(tensor.expert_count) : 1;
  const int64_t rows = tensor.rows() / count;
  for (int32_t i = 0; i < count; ++i) runs->push_back({&tensor, i * rows, (i + 1) * rows, i});
}

v1::FileRange Range(uint32_t file, uint64_t begin, uint64_t bytes) {
  v1::FileRange range;
  range.set_file(file);
  range.set_begin(begin);
  range.set_end(begin + bytes);
  return range;
}

// Sets format, algorithm and output ranges of a piece whose rows, some of `own`, are set.
void SetOutput(const PlacedRows& own, v1::Piece* piece) {
  const PlacedTensor& tensor = *own.tensor;
  const v1::TensorSpec& spec = tensor.source->spec();
  const auto rows = static_cast<uint64_t>(tensor.rows());
  const uint64_t begin = piece->row_begin();
  const uint64_t count = piece->row_end() - piece->row_begin();
  if (tensor.scheme.scheme == nullptr) {
    const uint64_t row_bytes = tensor.source_bytes() / rows;
    *piece->mutable_weight_out() =
        Range(tensor.output_file, tensor.weight_begin + begin * row_bytes, count * row_bytes);
    return;
  }
  const v1::NumericFormat& format = tensor.scheme.scheme->weight();
  const auto columns = static_cast<uint64_t>(spec.shape(1));
  const uint64_t stored = tensor.bitmask_begin ? columns / 2 : columns;
  *piece->mutable_format() = format;
  piece->set_algorithm(tensor.scheme.algorithm);
  piece->set_scale_dtype(tensor.scale_dtype);
  *piece->mutable_weight_out() =
      Range(tensor.output_file, tensor.weight_begin + begin * stored, count * stored);
  if (tensor.bitmask_begin) {
    const auto row_bits = static_cast<uint64_t>(BitmaskRowBytes(spec.shape(1)));
    *piece->mutable_bitmask_out() =
        Range(tensor.output_file, *tensor.bitmask_begin + begin * row_bits, count * row_bits);
  }
  uint64_t first = begin;  // scales before this piece
  uint64_t scales = count;
  if (format.granularity() == v1::PER_TENSOR) {
    if (piece->row_begin() != own.begin) return;
    first = static_cast<uint64_t>(own.index);
    scales = 1;
  } else if (format.granularity() == v1::PER_BLOCK) {
    const uint64_t block_rows = format.block_rows();
    const uint64_t per_row = (columns + format.block_columns() - 1) / format.block_columns();
    first = begin / block_rows * per_row;
    scales = (count + block_rows - 1) / block_rows * per_row;
  }
  *piece->mutable_scale_out() =
      Range(tensor.output_file, tensor.scale_begin + first * tensor.scale_bytes,
            scales * tensor.scale_bytes);
}

}  // namespace

v1::Piece WholePiece(const PlacedTensor& tensor, int32_t expert) {
  const bool stack = IsStack(tensor.source->role());
  const int64_t rows = tensor.rows() / tensor.expert_count;
  const int32_t index = stack ? expert : 0;
  v1::Piece piece;
  *piece.mutable_source() = tensor.source->spec();
  piece.set_row_begin(index * rows);
  piece.set_row_end((index + 1) * rows);
  piece.set_tie_group(-1);
  SetOutput({&tensor, piece.row_begin(), piece.row_end(), index}, &piece);
  return piece;
}

uint64_t OutputBytes(const v1::Piece& piece) {
  uint64_t bytes = 0;
  for (const v1::FileRange* range :
       {&piece.weight_out(), &piece.bitmask_out(), &piece.scale_out()}) {
    bytes += range->end() - range->begin();
  }
  return bytes;
}

void ClearOutput(v1::Piece* piece) {
  piece->clear_weight_out();
  piece->clear_bitmask_out();
  piece->clear_scale_out();
}

namespace {

class Cutter {
 public:
  explicit Cutter(v1::Plan* plan) : plan_(plan) {}

  // The rows, cut at multiples of 128 from their begin wherever a unit is full.
  void AddRows(Stream stream, const PlacedRows& rows, int32_t tie_group) {
    const uint64_t row_bytes = rows.source_bytes() / static_cast<uint64_t>(rows.end - rows.begin);
    int64_t begin = rows.begin;
    while (begin < rows.end) {
      const uint64_t room = kUnitSourceBytesMax - std::min(Filled(stream), kUnitSourceBytesMax);
      int64_t count = static_cast<int64_t>(room / row_bytes);
      if (count < rows.end - begin) count = count / kUnitRowMultiple * kUnitRowMultiple;
      if (count == 0) {
        if (Filled(stream) > 0) {
          Close(stream);
          continue;
        }
        count = kUnitRowMultiple;  // rows so wide that 128 of them are more than a unit should be
      }
      count = std::min(count, rows.end - begin);
      AddPiece(stream, rows, begin, begin + count, tie_group);
      begin += count;
    }
  }

  // All rows of a tie set into one unit.
  void AddWhole(const TieSet& set, int32_t tie_group) {
    if (Filled(kDirect) + set.bytes > kUnitSourceBytesMax) Close(kDirect);
    for (const PlacedRows* rows : set.members) {
      AddPiece(kDirect, *rows, rows->begin, rows->end, tie_group);
    }
  }

  void Finish() {
    for (int stream = 0; stream < kStreamCount; ++stream) {
      Close(static_cast<Stream>(stream));
      for (v1::Unit& unit : done_[stream]) {
        unit.set_id(plan_->units_size());
        if (unit.kind() == v1::UNIT_CAST || unit.kind() == v1::UNIT_COPY) {
          plan_->set_source_bytes(plan_->source_bytes() + unit.source_bytes());
        }
        *plan_->add_units() = std::move(unit);
      }
    }
  }

 private:
  uint64_t Filled(Stream stream) const { return open_[stream].source_bytes(); }

  void AddPiece(Stream stream, const PlacedRows& rows, int64_t begin, int64_t end,
                int32_t tie_group) {
    const PlacedTensor& tensor = *rows.tensor;
    v1::Unit& unit = open_[stream];
    v1::Piece* piece = unit.add_pieces();
    *piece->mutable_source() = tensor.source->spec();
    piece->set_row_begin(begin);
    piece->set_row_end(end);
    piece->set_tie_group(tie_group);
    SetOutput(rows, piece);
    if (kStreams[stream].kind != v1::UNIT_CAST) {  // statistics only
      ClearOutput(piece);
    }
    unit.set_source_bytes(unit.source_bytes() +
                          tensor.source_bytes() / tensor.rows() * (end - begin));
    unit.set_output_bytes(unit.output_bytes() + OutputBytes(*piece));
  }

  void Close(Stream stream) {
    v1::Unit& unit = open_[stream];
    if (unit.pieces_size() == 0) return;
    unit.set_phase(kStreams[stream].phase);
    unit.set_whole_ties(stream == kDirect);
    const bool casts = std::any_of(unit.pieces().begin(), unit.pieces().end(),
                                   [](const v1::Piece& piece) { return piece.has_format(); });
    unit.set_kind(casts ? kStreams[stream].kind : v1::UNIT_COPY);
    done_[stream].push_back(std::move(unit));
    unit.Clear();
  }

  v1::Plan* plan_;
  std::array<v1::Unit, kStreamCount> open_;
  std::array<std::vector<v1::Unit>, kStreamCount> done_;
};

}  // namespace

void CutUnits(std::span<const PlacedTensor> tensors, v1::Plan* plan) {
  std::vector<const PlacedTensor*> ordered;
  for (const PlacedTensor& tensor : tensors) {
    if (tensor.source_bytes() > 0 && !tensor.by_layers) ordered.push_back(&tensor);
  }
  std::sort(ordered.begin(), ordered.end(), [](const PlacedTensor* a, const PlacedTensor* b) {
    // A head made from the embedding begins where that does.
    return std::tuple(a->source_file, a->source->spec().begin(), a->source->role()) <
           std::tuple(b->source_file, b->source->spec().begin(), b->source->role());
  });
  const bool tied = CompatModeOf(plan->recipe().compat()).tied;
  std::vector<PlacedRows> runs;
  for (const PlacedTensor* tensor : ordered) AppendRows(*tensor, &runs);
  std::map<std::tuple<int32_t, int32_t, int64_t>, TieSet> ties;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (!HasTensorScale(*runs[i].tensor)) continue;
    TieSet& set = ties[TieKey(runs[i], static_cast<int64_t>(i), tied)];
    set.members.push_back(&runs[i]);
    set.bytes += runs[i].source_bytes();
  }

  Cutter cutter(plan);
  auto tie_groups = static_cast<int32_t>(plan->tie_group_count());
  for (size_t i = 0; i < runs.size(); ++i) {
    const PlacedRows& rows = runs[i];
    if (!HasTensorScale(*rows.tensor)) {
      cutter.AddRows(kDirect, rows, -1);
      continue;
    }
    const TieSet& set = ties.at(TieKey(rows, static_cast<int64_t>(i), tied));
    if (set.members.front() != &rows) continue;  // done with its first member
    const int32_t tie_group = tie_groups++;
    if (set.bytes <= kUnitSourceBytesMax) {
      cutter.AddWhole(set, tie_group);
      continue;
    }
    const bool mse = rows.tensor->scheme.algorithm == v1::MSE;
    for (const PlacedRows* member : set.members) {
      cutter.AddRows(kStatAmax, *member, tie_group);
      if (mse) cutter.AddRows(kStatMse, *member, tie_group);
      cutter.AddRows(mse ? kCastMse : kCastAbsmax, *member, tie_group);
    }
  }
  cutter.Finish();
  plan->set_tie_group_count(static_cast<uint32_t>(tie_groups));
}

}  // namespace octavo
