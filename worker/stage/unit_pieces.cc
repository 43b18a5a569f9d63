#include <algorithm>
#include <utility>

#include "core/base/error.h"
#include "core/base/fault.h"
#include "core/base/status.h"
#include "core/tensor/bare/tree.h"
#include "core/tensor/bare/two_of_four.h"
#include "core/tensor/dtype_proto.h"
#include "fmt/format.h"
#include "worker/stage/unit_run.h"

namespace octavo {
namespace {

// The reports of a piece's 128-row blocks merged into the piece's: sums over Tree.
v1::PieceReport MergeReports(std::vector<v1::PieceReport> blocks) {
  for (const MergeStep& step : MergeSteps(static_cast<int>(blocks.size()))) {
    v1::PieceReport& into = blocks[step.into];
    const v1::PieceReport& from = blocks[step.from];
    into.set_squared_error(into.squared_error() + from.squared_error());
    into.set_squared_source(into.squared_source() + from.squared_source());
    into.set_max_abs_error(std::max(into.max_abs_error(), from.max_abs_error()));
    into.set_elements(into.elements() + from.elements());
    into.set_zero_groups(into.zero_groups() + from.zero_groups());
    into.set_saturated(into.saturated() + from.saturated());
    if (from.scale_max() == 0) continue;  // nothing but zero groups
    into.set_scale_min(into.scale_max() == 0 ? from.scale_min()
                                             : std::min(into.scale_min(), from.scale_min()));
    into.set_scale_max(std::max(into.scale_max(), from.scale_max()));
  }
  return std::move(blocks.front());
}

std::vector<double> MergeSums(std::vector<std::vector<double>> parts) {
  for (const MergeStep& step : MergeSteps(static_cast<int>(parts.size()))) {
    for (size_t i = 0; i < parts[step.into].size(); ++i) {
      parts[step.into][i] += parts[step.from][i];
    }
  }
  return std::move(parts.front());
}

// Rows [first, first + rows) of `chunk_bytes`, which begin with row `chunk_begin`.
WeightRows RowsIn(const v1::Piece& piece, std::span<const std::byte> chunk_bytes,
                  int64_t chunk_begin, int64_t first, int64_t rows) {
  const uint64_t row_bytes = RowBytes(piece);
  WeightRows out;
  out.bytes = chunk_bytes.subspan(static_cast<uint64_t>(first - chunk_begin) * row_bytes,
                                  static_cast<uint64_t>(rows) * row_bytes);
  out.dtype = FromProto(piece.source().dtype());
  out.row_begin = first;
  out.rows = rows;
  out.columns = ColumnsOf(piece.source());
  out.tensor = piece.source().name();
  out.file = piece.source().file();
  out.file_offset = piece.source().begin() + static_cast<uint64_t>(first) * row_bytes;
  return out;
}

}  // namespace

absl::Status UnitRun::CopyPiece(const v1::Piece& piece) {
  const uint64_t row_bytes = RowBytes(piece);
  const uint64_t begin = static_cast<uint64_t>(piece.row_begin()) * row_bytes;
  const uint64_t size = static_cast<uint64_t>(piece.row_end() - piece.row_begin()) * row_bytes;
  const auto scratch = loan_.bytes().subspan(FrontBytes(piece));
  DigestStream digest;
  for (uint64_t at = 0; at < size; at += kChunkBytes) {
    OCTAVO_ASSIGN_OR_RETURN(const std::span<std::byte> chunk,
                            Read(piece, begin + at, std::min(kChunkBytes, size - at)));
    FaultPoint("mid-write");
    OCTAVO_RETURN_IF_ERROR(WriteVerified(piece.weight_out(), at, chunk, scratch));
    digest.Add(chunk);
  }
  AddDigest(piece.weight_out(), digest);
  return absl::OkStatus();
}

absl::Status UnitRun::CastChunk(const v1::Piece& piece, const Quantizer& quantizer,
                                const Chunk& chunk, std::span<std::byte> codes,
                                std::span<std::byte> scales, std::vector<v1::PieceReport>* blocks) {
  const Stopwatch watch(&cast_seconds_);
  const auto columns = static_cast<uint64_t>(ColumnsOf(piece.source()));
  const bool one_scale = piece.format().granularity() == v1::PER_TENSOR;
  size_t scale_at = 0;
  for (int64_t row = 0; row < chunk.rows; row += kUnitRowMultiple) {
    const int64_t rows = std::min(kUnitRowMultiple, chunk.rows - row);
    const size_t scale_bytes = ScaleCount(piece.format(), rows, ColumnsOf(piece.source())) *
                               static_cast<size_t>(ByteSize(FromProto(piece.scale_dtype())));
    OCTAVO_ASSIGN_OR_RETURN(
        v1::PieceReport report,
        quantizer.Quantize(RowsIn(piece, chunk.bytes, chunk.begin, chunk.begin + row, rows),
                           StatOf(piece),
                           codes.subspan(static_cast<uint64_t>(row) * columns,
                                         static_cast<uint64_t>(rows) * columns),
                           scales.subspan(scale_at, scale_bytes)));
    if (!one_scale) scale_at += scale_bytes;
    blocks->push_back(std::move(report));
  }
  return absl::OkStatus();
}

namespace {

// Packs `codes`, whole rows from `first` on, into their first half and the masks into `bits`.
absl::Status PackCodes(const v1::Piece& piece, int64_t first, std::span<std::byte> codes,
                       std::span<std::byte> bits) {
  const int64_t columns = ColumnsOf(piece.source());
  const int64_t row_bits = BitmaskRowBytes(columns);
  const bool signs = piece.format().type() == v1::NUMERIC_FP8_E4M3;
  auto* all = reinterpret_cast<uint8_t*>(codes.data());
  auto* masks = reinterpret_cast<uint8_t*>(bits.data());
  for (int64_t row = 0; row * columns < static_cast<int64_t>(codes.size()); ++row) {
    const int64_t wrong = PackTwoOfFour(all + row * columns, columns, signs,
                                        all + row * columns / 2, masks + row * row_bits);
    if (wrong < 0) continue;
    const auto at =
        static_cast<uint64_t>(first + row) * RowBytes(piece) +
        static_cast<uint64_t>(wrong) * (RowBytes(piece) / static_cast<uint64_t>(columns));
    return MakeError(
        Reason::kUnsupported,
        fmt::format("row {}, columns {} to {}: more than two of the four differ from zero, so that "
                    "they cannot be stored as sparse-24-bitmask",
                    first + row, wrong, wrong + 3),
        {.file = piece.source().file(),
         .tensor = piece.source().name(),
         .offset = piece.source().begin() + at},
        "Leave out storage, or prune with solver: {type: sparsegpt}");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status UnitRun::CastPiece(const v1::Piece& piece, const Quantizer& quantizer) {
  const auto columns = static_cast<uint64_t>(ColumnsOf(piece.source()));
  const auto scale_size = static_cast<uint64_t>(ByteSize(FromProto(piece.scale_dtype())));
  const v1::FileRange& scale_out = piece.scale_out();
  DigestStream weight_digest;
  DigestStream bitmask_digest;
  DigestStream scale_digest;
  std::vector<v1::PieceReport> blocks;
  uint64_t scale_at = 0;
  const bool written = piece.weight_out().end() > piece.weight_out().begin();  // or only measured
  auto visit = [&](const Chunk& chunk) -> absl::Status {
    const auto front = loan_.bytes().first(FrontBytes(piece));
    const auto rest = loan_.bytes().subspan(front.size());
    const auto codes = rest.first(static_cast<uint64_t>(chunk.rows) * columns);
    const auto scales =
        rest.subspan(codes.size())
            .first(ScaleCount(piece.format(), chunk.rows, ColumnsOf(piece.source())) * scale_size);
    OCTAVO_RETURN_IF_ERROR(CastChunk(piece, quantizer, chunk, codes, scales, &blocks));
    if (!written) return absl::OkStatus();
    // A per-tensor scale is written once, with the first rows of the tensor.
    if (scale_at < scale_out.end() - scale_out.begin()) {
      OCTAVO_RETURN_IF_ERROR(WriteVerified(scale_out, scale_at, scales, front));
      scale_digest.Add(scales);
      scale_at += scales.size();
    }
    FaultPoint("mid-write");
    const auto before = static_cast<uint64_t>(chunk.begin - piece.row_begin());
    std::span<std::byte> stored = codes;
    auto scratch = front;  // the source's rows are not needed any more
    if (piece.has_bitmask_out()) {
      const auto row_bits = static_cast<uint64_t>(BitmaskRowBytes(ColumnsOf(piece.source())));
      const auto bits = front.first(static_cast<uint64_t>(chunk.rows) * row_bits);
      OCTAVO_RETURN_IF_ERROR(PackCodes(piece, chunk.begin, codes, bits));
      stored = codes.first(codes.size() / 2);
      scratch = front.subspan(bits.size());
      OCTAVO_RETURN_IF_ERROR(WriteVerified(piece.bitmask_out(), before * row_bits, bits, scratch));
      bitmask_digest.Add(bits);
    }
    const uint64_t at = before * (stored.size() / static_cast<uint64_t>(chunk.rows));
    OCTAVO_RETURN_IF_ERROR(WriteVerified(piece.weight_out(), at, stored, scratch));
    weight_digest.Add(stored);
    return absl::OkStatus();
  };
  OCTAVO_RETURN_IF_ERROR(ForChunks(piece, visit));
  if (written) AddDigest(piece.weight_out(), weight_digest);
  if (piece.has_bitmask_out()) AddDigest(piece.bitmask_out(), bitmask_digest);
  if (scale_at > 0) AddDigest(scale_out, scale_digest);
  AddReport(piece, std::move(blocks), scale_at > 0);
  return absl::OkStatus();
}

void UnitRun::AddReport(const v1::Piece& piece, std::vector<v1::PieceReport> blocks,
                        bool has_scale) {
  v1::PieceReport report = MergeReports(std::move(blocks));
  // Rows of one all-zero tensor are one group, not one per block: the piece with the scale counts.
  if (piece.format().granularity() == v1::PER_TENSOR) {
    const v1::TieStat* stat = StatOf(piece);
    report.set_zero_groups(stat != nullptr && stat->amax_bits() == 0 && has_scale);
  }
  *receipt_.add_reports() = std::move(report);
}

absl::StatusOr<uint32_t> UnitRun::PieceAmax(const v1::Piece& piece, const Quantizer& quantizer) {
  uint32_t amax = 0;
  auto visit = [&](const Chunk& chunk) -> absl::Status {
    const Stopwatch watch(&cast_seconds_);
    OCTAVO_ASSIGN_OR_RETURN(
        const uint32_t bits,
        quantizer.Amax(RowsIn(piece, chunk.bytes, chunk.begin, chunk.begin, chunk.rows)));
    amax = std::max(amax, bits);
    return absl::OkStatus();
  };
  OCTAVO_RETURN_IF_ERROR(ForChunks(piece, visit));
  return amax;
}

absl::StatusOr<std::vector<double>> UnitRun::PieceGrid(const v1::Piece& piece,
                                                       const Quantizer& quantizer,
                                                       uint32_t joint_amax_bits) {
  std::vector<std::vector<double>> blocks;
  auto visit = [&](const Chunk& chunk) -> absl::Status {
    const Stopwatch watch(&cast_seconds_);
    for (int64_t row = 0; row < chunk.rows; row += kUnitRowMultiple) {
      const int64_t rows = std::min(kUnitRowMultiple, chunk.rows - row);
      OCTAVO_ASSIGN_OR_RETURN(
          std::vector<double> sums,
          quantizer.GridErrors(RowsIn(piece, chunk.bytes, chunk.begin, chunk.begin + row, rows),
                               joint_amax_bits));
      blocks.push_back(std::move(sums));
    }
    return absl::OkStatus();
  };
  OCTAVO_RETURN_IF_ERROR(ForChunks(piece, visit));
  return MergeSums(std::move(blocks));
}

absl::Status UnitRun::ReportStat(int index) {
  const v1::Piece& piece = task_.unit().pieces(index);
  v1::PieceStat* stat = receipt_.add_stats();
  stat->set_piece(static_cast<uint32_t>(index));
  stat->set_tie_group(static_cast<uint32_t>(piece.tie_group()));
  if (task_.unit().kind() == v1::UNIT_STAT_AMAX) {
    OCTAVO_ASSIGN_OR_RETURN(const uint32_t bits, PieceAmax(piece, *quantizers_[index]));
    stat->set_amax_bits(bits);
    return absl::OkStatus();
  }
  const v1::TieStat* joint = StatOf(piece);
  if (joint == nullptr) {
    return MakeError(Reason::kInternal, "a task lacks the statistics of its tie group",
                     {.file = piece.source().file(), .tensor = piece.source().name()});
  }
  OCTAVO_ASSIGN_OR_RETURN(const std::vector<double> sums,
                          PieceGrid(piece, *quantizers_[index], joint->amax_bits()));
  stat->set_amax_bits(joint->amax_bits());
  stat->mutable_mse_errors()->Add(sums.begin(), sums.end());
  return absl::OkStatus();
}

absl::Status UnitRun::FindJointStats() {
  std::map<int32_t, std::vector<int>> members;  // pieces by tie group without merged statistics
  for (int i = 0; i < task_.unit().pieces_size(); ++i) {
    const v1::Piece& piece = task_.unit().pieces(i);
    if (!piece.has_format() || piece.tie_group() < 0 || StatOf(piece) != nullptr) continue;
    if (!task_.unit().whole_ties()) {
      return MakeError(Reason::kInternal, "a task lacks the statistics of its tie group",
                       {.file = piece.source().file(), .tensor = piece.source().name()});
    }
    members[piece.tie_group()].push_back(i);
  }
  for (const auto& [tie_group, pieces] : members) {
    v1::TieStat stat;
    stat.set_tie_group(static_cast<uint32_t>(tie_group));
    for (const int i : pieces) {
      OCTAVO_ASSIGN_OR_RETURN(const uint32_t bits,
                              PieceAmax(task_.unit().pieces(i), *quantizers_[i]));
      stat.set_amax_bits(std::max(stat.amax_bits(), bits));
    }
    if (task_.unit().pieces(pieces.front()).algorithm() == v1::MSE) {
      std::vector<std::vector<double>> sums;
      for (const int i : pieces) {
        OCTAVO_ASSIGN_OR_RETURN(
            std::vector<double> part,
            PieceGrid(task_.unit().pieces(i), *quantizers_[i], stat.amax_bits()));
        sums.push_back(std::move(part));
      }
      const std::vector<double> merged = MergeSums(std::move(sums));
      stat.mutable_mse_errors()->Add(merged.begin(), merged.end());
    }
    stats_[tie_group] = std::move(stat);
  }
  return absl::OkStatus();
}

}  // namespace octavo
