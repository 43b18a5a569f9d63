#pragma once

// What is done with rows of F32 logits before a token is drawn: the softmax's denominator, the
// largest logit and the k largest. The same bits as kernels/softmax.h, whatever else is in the
// launch.
//
// Everything pointed at is in the GPU's memory. Rows lie `columns` numbers apart.

#include <cstdint>

#include "kernels/cuda/simt/grid.h"

namespace octavo::cuda {

// For each row: argmax = index of the largest logit, ties to the lowest; max = that logit; log =
// Log of the lane sum of Exp(x_j - max), so that (x_j - max) - log is a log probability. Both are
// NaN where a logit is no finite number. 1 <= columns < 2^31.
struct LogSums {
  const float* logits = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  float* max = nullptr;
  float* log = nullptr;
  int32_t* argmax = nullptr;
};
void Launch(const LogSums& call, simt::Stream stream);

// For each row the k largest logits, descending, ties to the lower index: values[row][k] and
// ids[row][k]. REQUIRES finite logits, 1 <= k <= kMax, k <= columns < 2^31.
struct TopLogits {
  static constexpr int64_t kMax = 1024;
  const float* logits = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t k = 0;
  float* values = nullptr;
  int32_t* ids = nullptr;
};
void Launch(const TopLogits& call, simt::Stream stream);

}  // namespace octavo::cuda
