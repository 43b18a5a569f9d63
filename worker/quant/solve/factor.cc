#include "worker/quant/solve/factor.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/fp_env.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace octavo {
namespace {

std::vector<int32_t> OrderOf(const Hessian& hessian, ColumnOrder order) {
  const int64_t run = order == ColumnOrder::kActivationByFours ? 4 : 1;
  std::vector<int32_t> channels(static_cast<size_t>(hessian.channels));
  std::iota(channels.begin(), channels.end(), 0);
  if (order == ColumnOrder::kNatural) return channels;
  std::vector<double> sums(static_cast<size_t>(hessian.channels / run));
  for (size_t i = 0; i < sums.size() * static_cast<size_t>(run); ++i) {
    const auto channel = static_cast<int64_t>(i);
    sums[i / static_cast<size_t>(run)] += hessian.At(channel, channel);
  }
  std::vector<int32_t> runs(sums.size());
  std::iota(runs.begin(), runs.end(), 0);
  std::stable_sort(runs.begin(), runs.end(), [&](int32_t a, int32_t b) {
    return sums[static_cast<size_t>(a)] > sums[static_cast<size_t>(b)];
  });
  for (size_t i = 0; i < runs.size() * static_cast<size_t>(run); ++i) {
    channels[i] = static_cast<int32_t>(runs[i / static_cast<size_t>(run)] * run +
                                       static_cast<int32_t>(i) % run);
  }
  return channels;
}

// The mean diagonal of the live channels.
absl::StatusOr<double> MeanDiagonal(const Hessian& hessian) {
  if (hessian.tokens == 0) {
    return MakeError(Reason::kBadData, "a Hessian of no token", {}, "Calibrate with more samples");
  }
  double sum = 0;
  int64_t live = 0;
  for (int64_t i = 0; i < hessian.channels; ++i) {
    const float diagonal = hessian.At(i, i);
    if (!std::isfinite(diagonal)) {
      return MakeError(Reason::kNonFinite,
                       fmt::format("the Hessian is not finite at input channel {}: an activation "
                                   "was not, or was too large to be squared",
                                   i));
    }
    sum += diagonal;
    live += diagonal != 0 ? 1 : 0;
  }
  if (live == 0) {
    return MakeError(Reason::kBadData, "every input channel of a Hessian is zero", {},
                     "Calibrate with other samples");
  }
  return sum / static_cast<double>(live);
}

// The damped Hessian by position, last position first: the Cholesky factor of that is the backward
// one.
void Fill(const Hessian& hessian, const HessianFactor& factor, ThreadPool* pool) {
  const int64_t n = factor.channels;
  const double damping = factor.damping();
  pool->ParallelFor(n, 16, [&](int64_t begin, int64_t end, int /*thread*/) {
    for (int64_t i = begin; i < end; ++i) {
      const int32_t row = factor.order[static_cast<size_t>(n - 1 - i)];
      double* to = factor.u.Row(i);
      for (int64_t j = i; j < n; ++j) {
        to[j] = hessian.At(row, factor.order[static_cast<size_t>(n - 1 - j)]);
      }
      if (factor.dead[static_cast<size_t>(n - 1 - i)] != 0) to[i] = factor.mean_diagonal;
      to[i] += damping;
    }
  });
}

// Mirrors the triangle at its other diagonal: from "last position first" back to positions.
void Mirror(const Triangle& u) {
  const int64_t last = u.size - 1;
  for (int64_t i = 0; i <= last; ++i) {
    for (int64_t j = i; i + j < last; ++j) std::swap(u.Row(i)[j], u.Row(last - j)[last - i]);
  }
}

}  // namespace

absl::StatusOr<HessianFactor> FactorHessian(const Hessian& hessian, const FactorOptions& options,
                                            Isa isa, Arena* arena, ThreadPool* pool) {
  const FpEnv env;
  if (!(options.damping >= 0 && options.damping <= options.damping_limit)) {
    return MakeError(Reason::kBadRecipe,
                     fmt::format("a damping of {} is not between 0 and its limit {}",
                                 options.damping, options.damping_limit));
  }
  HessianFactor factor;
  factor.channels = hessian.channels;
  OCTAVO_ASSIGN_OR_RETURN(factor.mean_diagonal, MeanDiagonal(hessian));
  factor.column_order = options.order;
  factor.order = OrderOf(hessian, options.order);
  for (const int32_t channel : factor.order) {
    factor.dead.push_back(hessian.At(channel, channel) == 0 ? 1 : 0);
  }
  factor.u = {nullptr, factor.channels, TriangleStride(factor.channels)};
  OCTAVO_ASSIGN_OR_RETURN(
      factor.values,
      arena->Allocate(static_cast<uint64_t>(factor.channels * factor.u.stride) * sizeof(double),
                      "the factor of a Hessian"));
  factor.u.at = factor.values.as<double>();
  const MatmulF64Ops& ops = MatmulF64OpsFor(isa);
  for (double share = options.damping; share <= options.damping_limit;
       share = std::max(share * 10, kDampingStepMin)) {
    factor.tried.push_back(share);
    Fill(hessian, factor, pool);
    const bool held = FactorTriangle(factor.u, ops, pool, options.stop);
    if (options.stop.stop_requested()) {
      return MakeError(Reason::kCancelled, "the task was stopped");
    }
    if (!held) continue;
    OCTAVO_RETURN_IF_ERROR(InvertTriangle(factor.u, ops, arena, pool, options.stop));
    Mirror(factor.u);
    return factor;
  }
  return MakeError(Reason::kBadData,
                   fmt::format("a Hessian of {} tokens over {} channels is not positive definite "
                               "with damping {} of its mean diagonal",
                               hessian.tokens, hessian.channels, fmt::join(factor.tried, ", ")),
                   {}, "Calibrate with more samples, or raise the limit of damping");
}

}  // namespace octavo
