#pragma once

// Two steps on an upper triangle in F64, in place: the Cholesky factor and the inverse. Every
// element is one chain of fused multiply-adds in a fixed order, so that the bits depend neither on
// blocks, nor on threads, nor on the instruction set:
//
//   factor   M = G^T G    g[i][j] = (m[i][j] - sum over k = 0 .. i-1, ascending, of
//                                    g[k][i] * g[k][j]) / g[i][i],  g[i][i] = sqrt(...)
//   inverse  V = G^-1     v[i][j] = (e[i][j] - sum over k = j .. i+1, descending, of
//                                    g[i][k] * v[k][j]) / g[i][i],  e the identity

#include <cstdint>
#include <stop_token>

#include "absl/status/status.h"
#include "kernels/matmul_f64.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"

namespace octavo {

// Element (i, j) at `at + i * stride + j`. Does not own its memory.
struct Triangle {
  double* at = nullptr;
  int64_t size = 0;
  int64_t stride = 0;

  double* Row(int64_t i) const { return at + i * stride; }
};

// A stride for `size` columns under which rows do not fall on the same lines of a cache.
int64_t TriangleStride(int64_t size);

// Replaces the upper triangle of M by that of G; below the diagonal come zeros. False where M is
// not positive definite to working precision: a pivot is not above size * 2^-52 times the diagonal
// element that it came from; and where `stop` fired, which is looked at every 128 rows. The
// contents are then lost. Callers hold an FpEnv.
[[nodiscard]] bool FactorTriangle(const Triangle& m, const MatmulF64Ops& ops, ThreadPool* pool,
                                  const std::stop_token& stop);

// Replaces G by V. REQUIRES: zeros below the diagonal. Takes 128 rows beside it from `arena`.
// Errors: kOutOfMemory; kCancelled where `stop` fired. Callers hold an FpEnv.
absl::Status InvertTriangle(const Triangle& g, const MatmulF64Ops& ops, Arena* arena,
                            ThreadPool* pool, const std::stop_token& stop);

}  // namespace octavo
