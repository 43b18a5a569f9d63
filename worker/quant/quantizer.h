#pragma once

// The Quantizer seam: rows of a weight in, eight-bit codes, scales and error figures out. One file
// per algorithm: round_to_nearest.h (absmax), mse.h.
//
// Work comes in pieces: runs of whole rows of one tensor. A scale never looks beyond its own rows,
// except PER_TENSOR scales of a tensor (or tied tensors) that lie in several pieces. Those take
// phases, the caller merging between them:
//   absmax:  Amax of every piece -> merge (maximum)                                -> Quantize
//   mse:     Amax -> merge -> GridErrors of every piece -> merge (Tree of sums)    -> Quantize
// With the same rows and the same merged statistics the same bytes come out, on every instruction
// set and thread count. All calls are const, stateless and safe from several threads at once; each
// installs the FpEnv it needs.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/tensor/dtype.h"
#include "kernels/isa.h"
#include "octavo/v1/recipe.pb.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// A run of whole rows of one weight, row major, as it lies in the file. The names are for error
// messages only.
struct WeightRows {
  std::span<const std::byte> bytes;  // rows * columns elements of `dtype`
  DType dtype = DType::kInvalid;     // F32, F16 or BF16
  int64_t row_begin = 0;             // absolute; PER_BLOCK: a multiple of block_rows
  int64_t rows = 0;
  int64_t columns = 0;
  std::string_view tensor = {};
  std::string_view file = {};
  uint64_t file_offset = 0;  // of bytes[0]
};

// How the codes are made.
struct QuantizeRule {
  v1::NumericFormat format;  // FP8_E4M3 or INT8; PER_TENSOR, PER_CHANNEL or PER_BLOCK
  v1::Algorithm algorithm = v1::ABSMAX;
  DType scale_dtype = DType::kInvalid;  // BF16, F16 or F32: how scales are stored
  v1::Compat compat = v1::COMPAT_NONE;  // Recipe.compat
};

// Points of the MSE grid: point i shrinks the maximum by 1 - i/100.
inline constexpr int kMseGridPoints = 20;

class Quantizer {
 public:
  virtual ~Quantizer() = default;

  // F32 bits of the largest magnitude of these rows (subnormals count as 0).
  // Errors: kNonFinite naming tensor, row and column, file offset.
  virtual absl::StatusOr<uint32_t> Amax(const WeightRows& rows) const = 0;

  // The grid's error sums over these rows under a PER_TENSOR scale made from `joint_amax_bits`:
  // kMseGridPoints values, empty for algorithms without a grid. Pieces are merged by addition over
  // Tree (core/tensor/bare/tree.h).
  virtual absl::StatusOr<std::vector<double>> GridErrors(const WeightRows& rows,
                                                         uint32_t joint_amax_bits) const = 0;

  // Writes rows*columns codes and the scales of these rows, in storage order and dtype:
  //   PER_CHANNEL  one per row;  PER_TENSOR  one;
  //   PER_BLOCK    ceil(rows/block_rows) x ceil(columns/block_columns).
  // codes.size() and scales.size() must be CodeBytes and ScaleBytes. `joint` carries the merged
  // statistics of a PER_TENSOR scale that spans more than these rows; nullptr: these rows are all.
  // The report's sums are F64 lane sums per row, rows ascending in blocks of 128, blocks merged
  // over Tree; report.tensor is set from rows.tensor. Errors: kNonFinite as Amax.
  virtual absl::StatusOr<v1::PieceReport> Quantize(const WeightRows& rows, const v1::TieStat* joint,
                                                   std::span<std::byte> codes,
                                                   std::span<std::byte> scales) const = 0;
};

// The quantizer of a rule. Errors: kUnsupported for formats, dtypes or compatibility modes that no
// quantizer handles, naming them. REQUIRES: IsSupported(isa).
absl::StatusOr<std::unique_ptr<Quantizer>> MakeQuantizer(const QuantizeRule& rule, Isa isa);

// Sizes of Quantize's outputs.
size_t CodeBytes(int64_t rows, int64_t columns);
size_t ScaleCount(const v1::NumericFormat& format, int64_t rows, int64_t columns);
size_t ScaleBytes(const QuantizeRule& rule, int64_t rows, int64_t columns);

}  // namespace octavo
