#pragma once

// Reading slices of tensors: 16-bit floats, scales, and rows of weights, with every value checked.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/tensor/dtype.h"
#include "octavo/v1/plan.pb.h"
#include "worker/runner/shard_files.h"

namespace octavo {

// The rows and columns of a two-dimensional tensor that a RankTensor names. One dimension counts as
// one column.
struct SliceBounds {
  int64_t rows = 0, columns = 0;  // of the whole tensor
  int64_t row_begin = 0, row_end = 0;
  int64_t column_begin = 0, column_end = 0;
};
SliceBounds BoundsOf(const v1::RankTensor& tensor);

// Reads rows [row_begin, row_end) of the slice's columns as BF16 (rounded to nearest even from F16
// and F32) or, for 8-bit tensors, as codes. kNonFinite / kBadCheckpoint as said in weights.h.
class SliceReader {
 public:
  SliceReader(ShardFiles* files, const v1::RankTensor& tensor);
  const SliceBounds& bounds() const { return bounds_; }
  // Bytes of one row of the slice as ReadRows returns it: in full, also where it is stored as two
  // of four columns (TensorSpec.bitmask).
  int64_t row_bytes() const { return (bounds_.column_end - bounds_.column_begin) * out_size_; }
  absl::Status ReadRows(int64_t row_begin, int64_t row_end, std::vector<std::byte>* out) const;

 private:
  absl::Status ReadPacked(int64_t row_begin, int64_t row_end, std::vector<std::byte>* out) const;
  absl::Status Check(std::span<const std::byte> row, uint64_t offset) const;

  ShardFiles* files_;
  const v1::TensorSpec& spec_;
  SliceBounds bounds_;
  int64_t in_size_;
  int64_t out_size_;
};

// A whole one-dimensional slice (norm, bias) as BF16.
absl::StatusOr<std::vector<uint16_t>> ReadVector(ShardFiles* files, const v1::RankTensor& tensor);

// Stored F32, F16 or BF16 numbers as F32.
std::vector<float> StoredFloats(DType dtype, std::span<const std::byte> bytes);

// All values of a scale tensor as F32. Not finite or not > 0: kBadCheckpoint.
absl::StatusOr<std::vector<float>> ReadScales(ShardFiles* files, const v1::TensorSpec& spec,
                                              int64_t count);

}  // namespace octavo
