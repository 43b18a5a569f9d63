#pragma once

// What GPTQ and SparseGPT need of a Hessian: the upper triangle U with U^T U = (H + damping I)^-1,
// columns in the order in which they will be solved. Row i of U says how an error made in column i
// is spread over the columns after it; 1 / U[i][i]^2 is what that error costs once they have
// adapted.
//
// No inverse is formed. With R upper and H + damping I = R R^T (Cholesky from the last column
// backwards), U is R^-1: half the work of factor, inverse and factor again, and in place.

#include <cstdint>
#include <stop_token>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/quant/solve/hessian.h"
#include "worker/quant/solve/triangle.h"

namespace octavo {

enum class ColumnOrder : uint8_t {
  kNatural,
  // Descending diagonal, ties to the lower channel: what matters most is solved first, while there
  // are most columns left to make up for it.
  kActivation,
  // The same for runs of four channels by the sum of their diagonals, ascending within a run: for
  // 2:4 masks. Channels that do not fill a run come last.
  kActivationByFours,
};

struct FactorOptions {
  ColumnOrder order = ColumnOrder::kNatural;
  // Of the mean diagonal of the live channels. Where the factorization fails, ten times as much
  // (at least kDampingStepMin), until the limit is passed.
  double damping = 0.01;
  double damping_limit = 1.0;
  std::stop_token stop = {};  // looked at every 128 channels: a factor takes minutes at 14,336
};
inline constexpr double kDampingStepMin = 0.01;

struct HessianFactor {
  int64_t channels = 0;
  ColumnOrder column_order = ColumnOrder::kNatural;
  std::vector<int32_t> order;  // [position]: the channel solved there
  std::vector<uint8_t> dead;   // [position]: 1 where no token had anything in that channel
  double mean_diagonal = 0;    // of the live channels
  std::vector<double> tried;   // dampings in turn, as shares of the mean; the last one held
  Triangle u;                  // by position; zeros below the diagonal
  Buffer values;               // of `u`

  // What was added to the diagonal.
  double damping() const { return tried.back() * mean_diagonal; }
};

// The same bits for every instruction set and number of threads. Takes channels^2 F64 and, for a
// while, 128 rows beside it from `arena`; `hessian` may go afterwards. A dead channel (its diagonal
// is zero) is taken as of mean importance: it meets no other, so that only the order sees it.
// Errors: kOutOfMemory; kNonFinite where a diagonal element is no number (an activation was not),
// naming the channel; kCancelled when stopped; kBadData where no token was seen, every channel is
// dead, or damping passed its limit, naming the dampings tried; kBadRecipe for a damping that is
// not in [0, limit].
absl::StatusOr<HessianFactor> FactorHessian(const Hessian& hessian, const FactorOptions& options,
                                            Isa isa, Arena* arena, ThreadPool* pool);

}  // namespace octavo
