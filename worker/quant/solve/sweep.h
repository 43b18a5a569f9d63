#pragma once

// The recursion that GPTQ and SparseGPT share. Over the columns of a weight in the factor's order,
// each column gets its final value, and the error made there is fed into the columns not reached
// yet:
//
//   e_i = (w_i - value_i) / U[i][i];   w_j -= e_i * U[i][j]  for j > i
//
// so that in the end (W - Q) (H + damping I) (W - Q)^T = sum of e_i^2, row by row. Rows never meet:
// a band of rows is swept at a time. All in F64. A weight's updates are one chain of fused
// multiply-adds, i ascending: blocks of columns, which only order the work, do not show in the
// bits.

#include <algorithm>
#include <cstdint>

#include "kernels/matmul_f64.h"
#include "worker/quant/solve/triangle.h"

namespace octavo {

inline constexpr int64_t kBandRows = 64;     // of the weight, swept together
inline constexpr int64_t kSweepBlock = 128;  // columns whose errors are handed on together
inline constexpr int64_t kMaskGroup = 4;     // columns that a 2:4 mask looks at

// weights: [position][kBandRows], changed. errors: [kSweepBlock][kBandRows], scratch. Before
// positions [i, i + count) of a group of at most kMaskGroup are solved, group(i, count) may look at
// their weights, to which the errors of everything before i have been fed. Then for each k of it
// column(k, w, e) reads kBandRows weights and writes as many e_k. Callers hold an FpEnv.
template <typename Group, typename Column>
void SweepBand(const Triangle& u, const MatmulF64Ops& ops, double* weights, double* errors,
               Group group, Column column) {
  // Feeds the errors of columns [from, to) of the block that begins at `begin` into columns
  // [first, last).
  const auto feed = [&](int64_t begin, int64_t from, int64_t to, int64_t first, int64_t last) {
    ops.subtract_product({last - first, kBandRows, to - from, u.Row(from) + first, 1, u.stride,
                          errors + (from - begin) * kBandRows, kBandRows},
                         weights + first * kBandRows, kBandRows);
  };
  for (int64_t begin = 0; begin < u.size; begin += kSweepBlock) {
    const int64_t end = std::min(begin + kSweepBlock, u.size);
    for (int64_t i = begin; i < end; i += kMaskGroup) {
      const int64_t last = std::min(i + kMaskGroup, end);
      feed(begin, begin, i, i, last);
      group(i, last - i);
      for (int64_t k = i; k < last; ++k) {
        column(k, weights + k * kBandRows, errors + (k - begin) * kBandRows);
        feed(begin, k, k + 1, k + 1, last);
      }
    }
    for (int64_t j = end; j < u.size; j += kSweepBlock) {
      feed(begin, begin, end, j, std::min(j + kSweepBlock, u.size));
    }
  }
}

}  // namespace octavo
