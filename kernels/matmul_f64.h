#pragma once

// The one inner loop of the second-order solvers, in F64: Cholesky factor, triangular inverse and
// error feedback are all "subtract a product". Every element of the result has a chain of its own,
// so that neither tiles, nor threads, nor vector widths show in its bits.

#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

// Element (i, k) of the left factor is a[i * a_row + k * a_depth], element (k, j) of the right one
// b[k * b_depth + j]. Steps may be negative: that turns the order of k around.
struct ProductF64 {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t depth = 0;
  const double* a = nullptr;
  int64_t a_row = 0;
  int64_t a_depth = 0;
  const double* b = nullptr;
  int64_t b_depth = 0;
};

struct MatmulF64Ops {
  // For k = 0 .. depth - 1 in this order: c[i * c_row + j] = fma(-a(i, k), b(k, j), c[..]).
  // REQUIRES: c overlaps neither factor.
  void (*subtract_product)(const ProductF64& product, double* c, int64_t c_row);
};

// The kernels of `isa`; the same bits for all. Callers hold an FpEnv. REQUIRES: IsSupported(isa).
const MatmulF64Ops& MatmulF64OpsFor(Isa isa);

std::span<const KernelRow> MatmulF64KernelRows();

}  // namespace octavo
