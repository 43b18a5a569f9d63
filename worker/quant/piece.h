#pragma once

// What every algorithm does alike with a piece: maxima per group of elements that share a scale,
// the cast under given scales, and the sums of its report.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/scheme/compat.h"
#include "core/tensor/bare/scale.h"
#include "kernels/quantize.h"
#include "worker/quant/quantizer.h"

namespace octavo {

// A rule in the kernels' terms.
struct CastSetup {
  CodeType code = CodeType::kFp8;
  CastRule cast;
  float code_max = kFp8Max;  // divisor of amax
  SourceType scale_type = SourceType::kF32;
  const CompatMode* mode = nullptr;
  v1::NumericFormat format;
  const QuantizeOps* ops = nullptr;
};

// Errors: kUnsupported naming what cannot be done.
absl::StatusOr<CastSetup> MakeCastSetup(const QuantizeRule& rule, Isa isa);

SourceType SourceTypeOf(DType dtype);

// A rectangle of a piece, in rows and columns relative to the piece.
struct Window {
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t column_begin = 0;
  int64_t column_end = 0;
};

// Address of one element of a piece.
const std::byte* ElementAt(const WeightRows& rows, int64_t row, int64_t column);

// F32 magnitude bits of the largest element in a window. Errors: kNonFinite.
absl::StatusOr<uint32_t> WindowAmax(const QuantizeOps& ops, const WeightRows& rows,
                                    const Window& window);

// Sums of per-row values: rows ascending within blocks of 128 (by absolute row), blocks merged over
// Tree.
class RowBlockSum {
 public:
  // Call in ascending order of the absolute row.
  void Add(int64_t absolute_row, double value);
  double Merge() const;

 private:
  int64_t block_ = -1;
  std::vector<double> sums_;
};

// Chooses the scale of a window whose maximum is known and not zero.
using ChooseScale = std::function<float(const WeightRows&, const Window&, uint32_t amax_bits)>;

// The whole of Quantizer::Quantize around a choice of scales. PER_TENSOR with `joint` asks `choose`
// once, with the joint maximum.
absl::StatusOr<v1::PieceReport> QuantizePiece(const CastSetup& setup, const WeightRows& rows,
                                              const v1::TieStat* joint, const ChooseScale& choose,
                                              std::span<std::byte> codes,
                                              std::span<std::byte> scales);

}  // namespace octavo
