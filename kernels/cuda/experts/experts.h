#pragma once

// What experts add up to on a GPU: the weighted sum of each row's visits (kernels/cuda/router), and
// the residual. Formula, order and bits are those of the CPU's runner (docs/numerics.md, experts):
//
//   sum = fma(weights[row][i], visited[visits[row][i]], sum) from zero, i ascending
//   out[row] = BF16(sum + residual[row])

#include <cstdint>

#include "kernels/cuda/simt/grid.h"

namespace octavo::cuda {

struct SumVisits {
  const float* visited = nullptr;   // [visits][columns] F32
  const int32_t* visits = nullptr;  // [rows][per_token]: the number of the visit
  const float* weights = nullptr;   // [rows][per_token]
  int64_t rows = 0;
  int64_t per_token = 0;
  int64_t columns = 0;
  const uint16_t* residual = nullptr;  // BF16 [rows][columns]
  uint16_t* out = nullptr;             // BF16 [rows][columns]; may be `residual`
};
void Launch(const SumVisits& call, simt::Stream stream);

}  // namespace octavo::cuda
