#pragma once

// One band of rows of a matrix through the recursion (sweep.h): first with the codes that rounding
// to nearest gives, which says what they cost, then with codes of its own; each row keeps the
// cheaper.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "worker/quant/solve/coder.h"
#include "worker/quant/solve/factor.h"
#include "worker/quant/solve/solver.h"
#include "worker/quant/solve/sweep.h"

namespace octavo {

struct RowOutcome {
  double error_before = 0;  // tr(dW H dW^T) of this row, as SolveReport has it
  double error_after = 0;
  bool nearest = false;
};

// What all bands share.
struct BandJob {
  const HessianFactor* factor = nullptr;
  const MatmulF64Ops* ops = nullptr;
  WeightRows rows;
  Coder coder;
  Sparsity sparsity = Sparsity::kKeep;
  std::vector<uint8_t> sparse_rows;  // [row]: came with the 2:4 pattern
  std::vector<uint8_t> zero_groups;  // [scale group]: its weights are all zero
  // [row][channel], rounded to nearest; becomes what is written.
  std::span<std::byte> stored;
};

class Band {
 public:
  // Bytes of scratch for one band at a time.
  static uint64_t ScratchBytes(int64_t channels);

  // `scratch` is 64-byte aligned and outlives the band, as does the job.
  Band(const BandJob& job, std::byte* scratch);

  // Solves rows [row_begin, row_begin + count) into job.stored. Callers hold an FpEnv.
  // REQUIRES: 1 <= count <= kBandRows.
  void Solve(int64_t row_begin, int64_t count, RowOutcome* outcomes);

 private:
  template <typename Score>
  void MarkZeros(int64_t position, int64_t count, Score score);
  void LoadSource();
  void TakeNearest();
  void SweepNearest(double* costs);
  void SweepCodes(double* costs);
  // Whether the recursion came to the codes of rounding to nearest.
  bool HasNearest(int64_t r) const;
  void CodeColumn(int64_t position, const double* weights, double* errors, double* costs);

  float ScaleAt(int64_t r, int64_t position) const {
    return job_.coder.scales[job_.coder.GroupOf(row_begin_ + r, ChannelAt(position))];
  }
  int64_t ChannelAt(int64_t position) const {
    return job_.factor->order[static_cast<size_t>(position)];
  }
  int64_t StoredIndex(int64_t r, int64_t position) const {
    return (row_begin_ + r) * job_.rows.columns + ChannelAt(position);
  }

  const BandJob& job_;
  int64_t row_begin_ = 0;
  int64_t count_ = 0;
  double* weights_;                   // [position][kBandRows]
  double* errors_;                    // [kSweepBlock][kBandRows]
  float* source_;                     // [position][kBandRows], zero in dead channels
  uint32_t* bits_;                    // [position][kBandRows]: the codes of the recursion
  bool zero_[kMaskGroup][kBandRows];  // of the group of columns being solved
};

}  // namespace octavo
