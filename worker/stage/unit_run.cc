#include "worker/stage/unit_run.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <utility>

#include "core/base/error.h"
#include "core/base/fault.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "core/plan/scratch_files.h"
#include "core/plan/solve_memory.h"
#include "core/tensor/bare/tree.h"
#include "core/tensor/dtype_proto.h"
#include "worker/stage/smooth.h"

namespace octavo {
namespace {

uint64_t ScaleBytes(const v1::Piece& piece) {
  return ScaleBytes(RuleOf(piece, v1::COMPAT_NONE), ChunkRows(piece), ColumnsOf(piece.source()));
}

// Buffers that a piece needs at a time.
uint64_t BufferBytes(const v1::Piece& piece) {
  if (!piece.has_format()) return FrontBytes(piece) + kChunkBytes;
  if (piece.transposed()) return FrontBytes(piece) + TurnedBytes(piece) + ScaleBytes(piece);
  return FrontBytes(piece) + CodeBytes(ChunkRows(piece), ColumnsOf(piece.source())) +
         ScaleBytes(piece);
}

absl::Status CheckTask(const v1::Task& task) {
  for (const v1::Piece& piece : task.unit().pieces()) {
    const v1::TensorSpec& source = piece.source();
    const bool rows_fit = piece.row_begin() >= 0 && piece.row_begin() < piece.row_end() &&
                          piece.row_end() <= RowsOf(source);
    const bool is_matrix = source.shape_size() == 2 && source.shape(1) > 0;
    if (!rows_fit || source.end() <= source.begin() || (piece.has_format() && !is_matrix) ||
        (piece.transposed() && piece.format().granularity() != v1::PER_TENSOR)) {
      return MakeError(Reason::kInternal, "a task's piece does not fit its tensor",
                       {.file = source.file(), .tensor = source.name()});
    }
  }
  return absl::OkStatus();
}

}  // namespace

QuantizeRule RuleOf(const v1::Piece& piece, v1::Compat compat) {
  QuantizeRule rule;
  rule.compat = compat;
  rule.format = piece.format();
  rule.algorithm = piece.algorithm();
  rule.scale_dtype = FromProto(piece.scale_dtype());
  return rule;
}

uint64_t FrontBytes(const v1::Piece& piece) {
  if (!piece.has_format()) return SourceFiles::RoomFor(kChunkBytes);
  const uint64_t rows = static_cast<uint64_t>(ChunkRows(piece)) * RowBytes(piece);
  // Scales of very narrow rows are larger than the rows.
  return SourceFiles::RoomFor(std::max(rows, ScaleBytes(piece)));
}

void ExpectReads(const v1::Task& task, SourceFiles* sources) {
  const v1::Unit& unit = task.unit();
  for (const v1::Piece& piece : unit.pieces()) {
    // Statistics that are still to be found mean a second reading, of this unit or of the next.
    const bool has_stat =
        std::any_of(task.tie_stats().begin(), task.tie_stats().end(), [&](const v1::TieStat& stat) {
          return static_cast<int32_t>(stat.tie_group()) == piece.tie_group();
        });
    const bool stat_only = unit.kind() == v1::UNIT_STAT_AMAX || unit.kind() == v1::UNIT_STAT_MSE;
    const bool again = stat_only || (piece.has_format() && piece.tie_group() >= 0 && !has_stat);
    const uint64_t row_bytes = RowBytes(piece);
    sources->Expect(piece.source().file(),
                    piece.source().begin() + static_cast<uint64_t>(piece.row_begin()) * row_bytes,
                    static_cast<uint64_t>(piece.row_end() - piece.row_begin()) * row_bytes, again);
  }
}

absl::StatusOr<std::unique_ptr<UnitRun>> UnitRun::Open(const v1::Task& task,
                                                       const QuantizerMaker& make,
                                                       BufferBudget* budget,
                                                       const std::stop_token& stop) {
  OCTAVO_RETURN_IF_ERROR(CheckTask(task));
  OCTAVO_ASSIGN_OR_RETURN(SourceFiles sources, SourceFiles::Open(task));
  ExpectReads(task, &sources);
  OCTAVO_ASSIGN_OR_RETURN(auto outputs, OpenOutputs(task));
  std::vector<std::unique_ptr<Quantizer>> quantizers;
  for (const v1::Piece& piece : task.unit().pieces()) {
    quantizers.emplace_back();
    if (!piece.has_format()) continue;
    OCTAVO_ASSIGN_OR_RETURN(quantizers.back(), make(RuleOf(piece, task.compat())));
  }
  OCTAVO_ASSIGN_OR_RETURN(BufferBudget::Loan loan, budget->Borrow(BufferBytesOf(task), stop));
  std::unique_ptr<UnitRun> run(
      new UnitRun(task, std::move(sources), std::move(outputs), std::move(loan), stop));
  run->quantizers_ = std::move(quantizers);
  for (const v1::Piece& piece : task.unit().pieces()) {
    if (!piece.has_fold()) continue;
    const std::string name = FoldFileName(piece.fold().layer(), piece.fold().point());
    if (run->folds_.contains(name)) continue;
    OCTAVO_ASSIGN_OR_RETURN(run->folds_[name], ReadFold(task, piece.fold()));
  }
  return run;
}

uint64_t UnitRun::BufferBytesOf(const v1::Task& task) {
  uint64_t bytes = 0;
  for (const v1::Piece& piece : task.unit().pieces()) bytes = std::max(bytes, BufferBytes(piece));
  return BufferBudget::Held(bytes);
}

UnitRun::UnitRun(const v1::Task& task, SourceFiles sources, std::map<uint32_t, SharedFile> outputs,
                 BufferBudget::Loan loan, std::stop_token stop)
    : task_(task),
      sources_(std::move(sources)),
      outputs_(std::move(outputs)),
      loan_(std::move(loan)),
      stop_(std::move(stop)) {
  receipt_.set_job_id(task.job_id());
  receipt_.set_unit_id(task.unit().id());
  receipt_.set_epoch(task.epoch());
  for (const v1::TieStat& stat : task.tie_stats()) {
    stats_[static_cast<int32_t>(stat.tie_group())] = stat;
  }
}

absl::Status UnitRun::Do() {
  const v1::Unit& unit = task_.unit();
  if (unit.kind() == v1::UNIT_SCALES) return WriteScales();
  if (unit.kind() == v1::UNIT_CAST || unit.has_hessian()) {
    OCTAVO_RETURN_IF_ERROR(FindJointStats());
  }
  const bool looks = unit.kind() == v1::UNIT_SMOOTH;  // at pieces with a format
  for (int i = 0; i < unit.pieces_size(); ++i) {
    const v1::Piece& piece = unit.pieces(i);
    if (unit.kind() == v1::UNIT_STAT_AMAX || unit.kind() == v1::UNIT_STAT_MSE) {
      OCTAVO_RETURN_IF_ERROR(ReportStat(i));
    } else if (piece.has_format() && looks) {
      continue;
    } else if (piece.transposed()) {
      OCTAVO_RETURN_IF_ERROR(CastTurned(piece, *quantizers_[i]));
    } else if (piece.has_format()) {
      OCTAVO_RETURN_IF_ERROR(CastPiece(piece, *quantizers_[i]));
    } else {
      OCTAVO_RETURN_IF_ERROR(CopyPiece(piece));
    }
    for (const v1::FileRange* out : {&piece.weight_out(), &piece.bitmask_out()}) {
      if (out->end() == out->begin()) continue;
      outputs_.at(out->file())->StartWriteBack(out->begin(), out->end() - out->begin());
    }
  }
  return sources_.CheckUnchanged();
}

absl::Status UnitRun::CheckStop() const {
  if (!stop_.stop_requested()) return absl::OkStatus();
  return MakeError(Reason::kCancelled, "the task was stopped");
}

const v1::TieStat* UnitRun::StatOf(const v1::Piece& piece) const {
  const auto found = stats_.find(piece.tie_group());
  return found == stats_.end() ? nullptr : &found->second;
}

absl::StatusOr<std::span<std::byte>> UnitRun::Read(const v1::Piece& piece, uint64_t offset,
                                                   uint64_t size) {
  OCTAVO_RETURN_IF_ERROR(CheckStop());
  const Stopwatch watch(&read_seconds_);
  bytes_read_ += size;
  OCTAVO_ASSIGN_OR_RETURN(const std::span<std::byte> bytes,
                          sources_.Read(piece.source().file(), piece.source().begin() + offset,
                                        size, loan_.bytes().first(SourceFiles::RoomFor(size))));
  if (!piece.has_fold()) return bytes;
  const v1::Fold& fold = piece.fold();
  OCTAVO_RETURN_IF_ERROR(FoldElements(piece.source(), offset,
                                      folds_.at(FoldFileName(fold.layer(), fold.point())),
                                      fold.divides(), bytes));
  return bytes;
}

absl::Status UnitRun::WriteVerified(const v1::FileRange& range, uint64_t at,
                                    std::span<const std::byte> bytes,
                                    std::span<std::byte> scratch) {
  const Stopwatch watch(&write_seconds_);
  const OpenFile& file = *outputs_.at(range.file());
  const uint64_t offset = range.begin() + at;
  if (offset + bytes.size() > range.end()) {
    return MakeError(Reason::kInternal, "a unit would write outside its range",
                     {.file = file.path(), .offset = offset});
  }
  OCTAVO_RETURN_IF_ERROR(file.WriteAt(offset, bytes));
  bytes_written_ += bytes.size();
  const std::span<std::byte> back = scratch.first(bytes.size());
  OCTAVO_RETURN_IF_ERROR(file.ReadAt(offset, back));
  if (std::memcmp(back.data(), bytes.data(), bytes.size()) == 0) return absl::OkStatus();
  return MakeError(Reason::kCorrupted, "the bytes read back are not the bytes written",
                   {.file = file.path(), .offset = offset},
                   "The disk or its driver is at fault; write elsewhere");
}

void UnitRun::AddDigest(const v1::FileRange& range, const DigestStream& stream) {
  v1::RangeDigest* out = receipt_.add_ranges();
  *out->mutable_range() = range;
  const Digest128 digest = stream.Finish();
  out->mutable_digest()->set_low(digest.low);
  out->mutable_digest()->set_high(digest.high);
}

v1::Receipt UnitRun::TakeReceipt() {
  receipt_.set_bytes_read(bytes_read_);
  receipt_.set_bytes_written(bytes_written_);
  receipt_.set_read_seconds(read_seconds_);
  receipt_.set_cast_seconds(cast_seconds_);
  receipt_.set_write_seconds(write_seconds_);
  return std::move(receipt_);
}

}  // namespace octavo
