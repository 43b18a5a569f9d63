#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/solve_lanes.h"

namespace octavo::internal {
namespace {

struct LanesF64 {
  using V = __m256d;
  static constexpr int64_t kWidth = 4;
  static constexpr int kRowTile = 4;  // rows of c that a tile keeps in registers

  [[gnu::always_inline]] static V Set(double x) { return _mm256_set1_pd(x); }
  [[gnu::always_inline]] static V Load(const double* p) { return _mm256_loadu_pd(p); }
  [[gnu::always_inline]] static void Store(double* p, V x) { _mm256_storeu_pd(p, x); }
  // c - a * b with one rounding.
  [[gnu::always_inline]] static V SubtractProduct(V a, V b, V c) {
    return _mm256_fnmadd_pd(a, b, c);
  }
};

}  // namespace

const SolveTwins kSolveAvx2 = SolveTwinsOf<LanesAvx2, LanesF64>();

}  // namespace octavo::internal
