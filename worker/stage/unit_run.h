#pragma once

// One task on its way: its files, its buffers, its receipt in the making. Private to worker/stage.

#include <algorithm>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/checksum.h"
#include "core/base/limits.h"
#include "core/base/status.h"
#include "kernels/isa.h"
#include "octavo/v1/task.pb.h"
#include "worker/quant/quantizer.h"
#include "worker/quant/smooth.h"
#include "worker/stage/buffer_budget.h"
#include "worker/stage/source_files.h"
#include "worker/stage/unit_files.h"

namespace octavo {

// Source bytes read at once: small enough to stay in the second-level cache from reading over
// casting and writing to reading back.
inline constexpr uint64_t kChunkBytes = 1u << 20;

// Adds the seconds of a scope to `*total`.
class Stopwatch {
 public:
  explicit Stopwatch(double* total) : total_(total), start_(std::chrono::steady_clock::now()) {}
  ~Stopwatch() {
    *total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  Stopwatch(const Stopwatch&) = delete;

 private:
  double* total_;
  std::chrono::steady_clock::time_point start_;
};

// Anything not two-dimensional counts as one row.
inline int64_t RowsOf(const v1::TensorSpec& spec) {
  return spec.shape_size() == 2 ? spec.shape(0) : 1;
}

inline int64_t ColumnsOf(const v1::TensorSpec& spec) {
  return spec.shape_size() == 2 ? spec.shape(1) : 0;
}

inline uint64_t RowBytes(const v1::Piece& piece) {
  return (piece.source().end() - piece.source().begin()) /
         static_cast<uint64_t>(RowsOf(piece.source()));
}

// Rows of a chunk: whole blocks of 128, as many as kChunkBytes holds, at least one.
inline int64_t ChunkRows(const v1::Piece& piece) {
  const uint64_t rows = kChunkBytes / std::max<uint64_t>(RowBytes(piece), 1);
  const int64_t blocks = std::max<int64_t>(1, static_cast<int64_t>(rows) / kUnitRowMultiple);
  return std::min(blocks * kUnitRowMultiple, piece.row_end() - piece.row_begin());
}

// Bytes at the front of a unit's buffers that hold source rows, and then what was read back.
uint64_t FrontBytes(const v1::Piece& piece);

// Tells `sources` what the task's unit is going to read.
void ExpectReads(const v1::Task& task, SourceFiles* sources);

// The rule by which a piece is quantized.
QuantizeRule RuleOf(const v1::Piece& piece, v1::Compat compat);

// The quantizer of one piece.
using QuantizerMaker =
    std::function<absl::StatusOr<std::unique_ptr<Quantizer>>(const QuantizeRule& rule)>;

class UnitRun {
 public:
  // Checks the sources, opens the outputs, waits for its buffers.
  static absl::StatusOr<std::unique_ptr<UnitRun>> Open(const v1::Task& task,
                                                       const QuantizerMaker& make,
                                                       BufferBudget* budget,
                                                       const std::stop_token& stop);
  // Buffers that Open waits for.
  static uint64_t BufferBytesOf(const v1::Task& task);
  // Does the unit. The outputs may be partly written when this fails.
  absl::Status Do();

  // What Do proved. Once.
  v1::Receipt TakeReceipt();
  const std::map<uint32_t, SharedFile>& outputs() const { return outputs_; }

 private:
  // Rows [begin, begin + rows) of the piece's tensor, in memory.
  struct Chunk {
    int64_t begin = 0;
    int64_t rows = 0;
    std::span<std::byte> bytes;
  };

  UnitRun(const v1::Task& task, SourceFiles sources, std::map<uint32_t, SharedFile> outputs,
          BufferBudget::Loan loan, std::stop_token stop);

  absl::Status CopyPiece(const v1::Piece& piece);
  absl::Status CastPiece(const v1::Piece& piece, const Quantizer& quantizer);
  // Codes and scales of one chunk; one report per 128 rows is appended to `blocks`.
  absl::Status CastChunk(const v1::Piece& piece, const Quantizer& quantizer, const Chunk& chunk,
                         std::span<std::byte> codes, std::span<std::byte> scales,
                         std::vector<v1::PieceReport>* blocks);
  // The same where rows are inputs (unit_turned.cc).
  absl::Status CastTurned(const v1::Piece& piece, const Quantizer& quantizer);
  // Of a piece, from those of its blocks of 128 rows; `has_scale`: it wrote its tensor's scale.
  void AddReport(const v1::Piece& piece, std::vector<v1::PieceReport> blocks, bool has_scale);
  absl::StatusOr<uint32_t> PieceAmax(const v1::Piece& piece, const Quantizer& quantizer);
  absl::StatusOr<std::vector<double>> PieceGrid(const v1::Piece& piece, const Quantizer& quantizer,
                                                uint32_t joint_amax_bits);
  absl::Status ReportStat(int index);
  // UNIT_SCALES (unit_scales.cc).
  absl::Status ReadStats();
  absl::Status WriteScale(const v1::StaticScale& scale);
  void ReportExperts();
  absl::Status WriteScales();
  // Joint statistics of the tie groups that lie wholly in this unit.
  absl::Status FindJointStats();

  // Reads the piece chunk by chunk and hands each to `visit`.
  template <typename Visit>
  absl::Status ForChunks(const v1::Piece& piece, Visit visit);
  // `size` source bytes from `offset` inside the piece's tensor, at the front of the loan.
  absl::StatusOr<std::span<std::byte>> Read(const v1::Piece& piece, uint64_t offset, uint64_t size);
  // Writes at `at` inside the range, reads back into `scratch`, compares.
  absl::Status WriteVerified(const v1::FileRange& range, uint64_t at,
                             std::span<const std::byte> bytes, std::span<std::byte> scratch);
  void AddDigest(const v1::FileRange& range, const DigestStream& digest);
  absl::Status CheckStop() const;
  const v1::TieStat* StatOf(const v1::Piece& piece) const;

  const v1::Task& task_;
  SourceFiles sources_;
  std::map<uint32_t, SharedFile> outputs_;
  BufferBudget::Loan loan_;
  std::stop_token stop_;
  std::vector<std::unique_ptr<Quantizer>> quantizers_;  // by piece; null for copies
  std::map<int32_t, v1::TieStat> stats_;                // by tie group
  std::map<std::string, Exponents> folds_;              // by the name of their file
  std::vector<v1::PointStat> points_;                   // UNIT_SCALES: merged
  v1::Receipt receipt_;
  uint64_t bytes_read_ = 0;
  uint64_t bytes_written_ = 0;
  double read_seconds_ = 0;
  double cast_seconds_ = 0;
  double write_seconds_ = 0;
};

template <typename Visit>
absl::Status UnitRun::ForChunks(const v1::Piece& piece, Visit visit) {
  const int64_t step = ChunkRows(piece);
  const uint64_t row_bytes = RowBytes(piece);
  for (int64_t row = piece.row_begin(); row < piece.row_end(); row += step) {
    Chunk chunk;
    chunk.begin = row;
    chunk.rows = std::min(step, piece.row_end() - row);
    OCTAVO_ASSIGN_OR_RETURN(chunk.bytes, Read(piece, static_cast<uint64_t>(row) * row_bytes,
                                              static_cast<uint64_t>(chunk.rows) * row_bytes));
    OCTAVO_RETURN_IF_ERROR(visit(chunk));
  }
  return absl::OkStatus();
}

}  // namespace octavo
