#pragma once

// kernels/hessian.h over the lanes of products (matmul_lanes.h): tokens are the depth, channels are
// rows and columns. And kernels/matmul_f64.h over lanes of F64. Included by one file per
// instruction set, which picks the lanes `L` and `D`; everything is local to that file.

#include <cstdint>

#include "kernels/cpu/block_products.h"
#include "kernels/solve_twins.h"

namespace octavo::internal {
namespace {

// 32 tokens from `token` on, 16 * Groups channels from `column` on, as BlockProduct reads weights.
template <class L, int Groups>
void DecodeTokens(const HessianTokens& tokens, int64_t token, int64_t column, float* out) {
  for (int64_t k = 0; k < kTileDepth; ++k) {
    for (int g = 0; g < Groups; ++g) {
      const int64_t channel = column + g * 16;
      const int64_t left = tokens.channels - channel;
      typename L::F values = L::Zero();
      if (token + k < tokens.count && left > 0) {
        const uint16_t* at = tokens.x + (token + k) * tokens.stride + channel;
        values = left >= 16 ? L::LoadBf16(at) : L::LoadBf16Part(at, left);
      }
      L::Store(out + (k * Groups + g) * 16, values);
    }
  }
}

template <class L, int Groups>
void AddHessianColumns(const HessianTokens& tokens, const float* strip, int64_t rows,
                       int64_t column, float* h, int64_t h_stride) {
  alignas(64) float decoded[kTileDepth * Groups * 16];
  for (int64_t token = 0; token < tokens.count; token += kTileDepth) {
    DecodeTokens<L, Groups>(tokens, token, column, decoded);
    BlockProduct<L, Groups>(decoded, rows, strip + token, kHessianTokens, h + column, h_stride);
  }
}

template <class L>
void AddHessian(const HessianTokens& tokens, int64_t row_begin, int64_t row_end, float* h,
                int64_t h_stride) {
  // strip[row][token]: the channels of the rows, turned, once for all columns.
  alignas(64) float strip[kHessianStripRows * kHessianTokens];
  const int64_t rows = row_end - row_begin;
  const int64_t padded = (tokens.count + kTileDepth - 1) / kTileDepth * kTileDepth;
  for (int64_t t = 0; t < padded; ++t) {
    const uint16_t* at = tokens.x + t * tokens.stride + row_begin;
    for (int64_t r = 0; r < rows; ++r) {
      strip[r * kHessianTokens + t] = t < tokens.count ? F32FromBf16(at[r]) : 0.0f;
    }
  }
  float* to = h + row_begin * h_stride;
  const int64_t groups = (tokens.channels + 15) / 16;
  int64_t group = row_begin / 16;
  for (; group + L::kBlockGroups <= groups; group += L::kBlockGroups) {
    AddHessianColumns<L, L::kBlockGroups>(tokens, strip, rows, group * 16, to, h_stride);
  }
  for (; group < groups; ++group) {
    AddHessianColumns<L, 1>(tokens, strip, rows, group * 16, to, h_stride);
  }
}

// Rows [i, i + Rows), columns [j, j + Vectors * D::kWidth): the sums stay in registers.
template <class D, int Rows, int Vectors>
[[gnu::always_inline]] inline void SubtractTile(const ProductF64& p, int64_t i, int64_t j,
                                                double* c, int64_t c_row) {
  typename D::V sum[Rows][Vectors];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      sum[r][v] = D::Load(c + (i + r) * c_row + j + v * D::kWidth);
    }
  }
  const double* a = p.a + i * p.a_row;
  const double* b = p.b + j;
  for (int64_t k = 0; k < p.depth; ++k) {
    typename D::V w[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) w[v] = D::Load(b + v * D::kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const typename D::V x = D::Set(a[r * p.a_row]);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) sum[r][v] = D::SubtractProduct(x, w[v], sum[r][v]);
    }
    a += p.a_depth;
    b += p.b_depth;
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) {
      D::Store(c + (i + r) * c_row + j + v * D::kWidth, sum[r][v]);
    }
  }
}

template <class D, int Vectors>
void SubtractColumns(const ProductF64& p, int64_t j, double* c, int64_t c_row) {
  int64_t i = 0;
  for (; i + D::kRowTile <= p.rows; i += D::kRowTile) {
    SubtractTile<D, D::kRowTile, Vectors>(p, i, j, c, c_row);
  }
  for (; i + 4 <= p.rows; i += 4) SubtractTile<D, 4, Vectors>(p, i, j, c, c_row);
  for (; i < p.rows; ++i) SubtractTile<D, 1, Vectors>(p, i, j, c, c_row);
}

template <class D>
void SubtractProduct(const ProductF64& p, double* c, int64_t c_row) {
  int64_t j = 0;
  for (; j + 2 * D::kWidth <= p.columns; j += 2 * D::kWidth) SubtractColumns<D, 2>(p, j, c, c_row);
  for (; j + D::kWidth <= p.columns; j += D::kWidth) SubtractColumns<D, 1>(p, j, c, c_row);
  for (; j < p.columns; ++j) {
    for (int64_t i = 0; i < p.rows; ++i) {
      double sum = c[i * c_row + j];
      for (int64_t k = 0; k < p.depth; ++k) {
        sum = __builtin_fma(-p.a[i * p.a_row + k * p.a_depth], p.b[k * p.b_depth + j], sum);
      }
      c[i * c_row + j] = sum;
    }
  }
}

template <class L, class D>
constexpr SolveTwins SolveTwinsOf() {
  return {{AddHessian<L>}, {SubtractProduct<D>}};
}

}  // namespace
}  // namespace octavo::internal
