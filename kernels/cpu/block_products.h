#pragma once

// Products of rows and a block of 32 k whose numbers are F32 already, over 16 virtual lanes: the
// 32-block rule of kernels/matmul.h. Included where matmul_lanes.h and solve_lanes.h are; local to
// their files.

#include <cstdint>

#include "kernels/matmul.h"

namespace octavo::internal {
namespace {

// chains[r][..] = fma(x[r], weights, chains[r][..]).
template <class L, int Rows, int Groups>
[[gnu::always_inline]] inline void AddOuter(const float* weights, const float* x, int64_t x_stride,
                                            typename L::F (&chains)[Rows][Groups]) {
  typename L::F w[Groups];
#pragma GCC unroll 8
  for (int g = 0; g < Groups; ++g) w[g] = L::Load(weights + g * 16);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    const typename L::F a = L::Set(x[r * x_stride]);
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) chains[r][g] = L::Fma(a, w[g], chains[r][g]);
  }
}

// sums[r][..] += the 32-block rule of x rows and `weights` ([32][16 * Groups] numbers).
template <class L, int Rows, int Groups>
[[gnu::always_inline]] inline void BlockRows(const float* weights, const float* x, int64_t x_stride,
                                             float* sums, int64_t sums_stride) {
  constexpr int64_t kStride = Groups * 16;
  typename L::F even[Rows][Groups], odd[Rows][Groups];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) even[r][g] = odd[r][g] = L::Zero();
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < kTileDepth; k += 2) {
    // One parity after the other, so that only `Groups` registers hold weights.
    AddOuter<L, Rows, Groups>(weights + k * kStride, x + k, x_stride, even);
    AddOuter<L, Rows, Groups>(weights + (k + 1) * kStride, x + k + 1, x_stride, odd);
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) {
      float* sum = sums + r * sums_stride + g * 16;
      L::Store(sum, L::Add(L::Load(sum), L::Add(even[r][g], odd[r][g])));
    }
  }
}

// The same for any number of rows.
template <class L, int Groups>
void BlockProduct(const float* weights, int64_t rows, const float* x, int64_t x_stride, float* sums,
                  int64_t sums_stride) {
  constexpr int kTile = L::kBlockRows;
  int64_t r = 0;
  for (; r + kTile <= rows; r += kTile) {
    for (int64_t next = r + kTile; next < r + 2 * kTile && next < rows; ++next) {
      __builtin_prefetch(x + next * x_stride);
      __builtin_prefetch(x + next * x_stride + 16);
    }
    BlockRows<L, kTile, Groups>(weights, x + r * x_stride, x_stride, sums + r * sums_stride,
                                sums_stride);
  }
  x += r * x_stride;
  sums += r * sums_stride;
  switch (rows - r) {
    case 5:
      return BlockRows<L, 5, Groups>(weights, x, x_stride, sums, sums_stride);
    case 4:
      return BlockRows<L, 4, Groups>(weights, x, x_stride, sums, sums_stride);
    case 3:
      return BlockRows<L, 3, Groups>(weights, x, x_stride, sums, sums_stride);
    case 2:
      return BlockRows<L, 2, Groups>(weights, x, x_stride, sums, sums_stride);
    case 1:
      return BlockRows<L, 1, Groups>(weights, x, x_stride, sums, sums_stride);
    default:
      return;
  }
}

}  // namespace
}  // namespace octavo::internal
