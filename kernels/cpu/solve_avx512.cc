#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/solve_lanes.h"

namespace octavo::internal {
namespace {

struct LanesF64 {
  using V = __m512d;
  static constexpr int64_t kWidth = 8;
  static constexpr int kRowTile = 8;  // rows of c that a tile keeps in registers

  [[gnu::always_inline]] static V Set(double x) { return _mm512_set1_pd(x); }
  [[gnu::always_inline]] static V Load(const double* p) { return _mm512_loadu_pd(p); }
  [[gnu::always_inline]] static void Store(double* p, V x) { _mm512_storeu_pd(p, x); }
  // c - a * b with one rounding.
  [[gnu::always_inline]] static V SubtractProduct(V a, V b, V c) {
    return _mm512_fnmadd_pd(a, b, c);
  }
};

}  // namespace

const SolveTwins kSolveAvx512 = SolveTwinsOf<LanesAvx512, LanesF64>();

}  // namespace octavo::internal
