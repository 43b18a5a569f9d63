// The specification of kernels/hessian.h and kernels/matmul_f64.h.

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/units.h"
#include "kernels/solve_twins.h"

namespace octavo::internal {
namespace {

// +0 past the last token and the last channel.
float At(const HessianTokens& tokens, int64_t token, int64_t channel) {
  if (token >= tokens.count || channel >= tokens.channels) return 0;
  return F32FromBf16(tokens.x[token * tokens.stride + channel]);
}

void AddHessian(const HessianTokens& tokens, int64_t row_begin, int64_t row_end, float* h,
                int64_t h_stride) {
  const int64_t columns = RoundUp(tokens.channels, 16);
  for (int64_t i = row_begin; i < row_end; ++i) {
    for (int64_t j = row_begin; j < columns; ++j) {
      float& sum = h[i * h_stride + j];
      for (int64_t block = 0; block < tokens.count; block += kSumBlock) {
        float even = 0;
        float odd = 0;
        for (int64_t t = block; t < block + kSumBlock; t += 2) {
          even = __builtin_fmaf(At(tokens, t, i), At(tokens, t, j), even);
          odd = __builtin_fmaf(At(tokens, t + 1, i), At(tokens, t + 1, j), odd);
        }
        sum += even + odd;
      }
    }
  }
}

void SubtractProduct(const ProductF64& p, double* c, int64_t c_row) {
  for (int64_t i = 0; i < p.rows; ++i) {
    for (int64_t j = 0; j < p.columns; ++j) {
      double sum = c[i * c_row + j];
      for (int64_t k = 0; k < p.depth; ++k) {
        sum = __builtin_fma(-p.a[i * p.a_row + k * p.a_depth], p.b[k * p.b_depth + j], sum);
      }
      c[i * c_row + j] = sum;
    }
  }
}

}  // namespace

const SolveTwins kSolveReference = {{AddHessian}, {SubtractProduct}};

}  // namespace octavo::internal
