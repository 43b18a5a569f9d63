#include "worker/quant/mse.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/tensor/bare/fp_env.h"
#include "fmt/format.h"

namespace octavo {
namespace {

using GridScales = std::array<float, kMseGridPoints>;
using GridSums = std::array<double, kMseGridPoints>;

GridSums WindowErrors(const CastSetup& setup, const WeightRows& rows, const Window& window,
                      const GridScales& scales) {
  std::array<RowBlockSum, kMseGridPoints> sums;
  for (int64_t row = window.row_begin; row < window.row_end; ++row) {
    GridSums errors;
    setup.ops->grid_errors_row(ElementAt(rows, row, window.column_begin), SourceTypeOf(rows.dtype),
                               static_cast<size_t>(window.column_end - window.column_begin),
                               scales.data(), scales.size(), setup.cast, errors.data());
    for (int p = 0; p < kMseGridPoints; ++p) sums[p].Add(rows.row_begin + row, errors[p]);
  }
  GridSums merged;
  for (int p = 0; p < kMseGridPoints; ++p) merged[p] = sums[p].Merge();
  return merged;
}

// Index of the smallest sum; the first (largest p) among equals.
template <typename Sums>
int BestPoint(const Sums& sums) {
  return static_cast<int>(std::min_element(sums.begin(), sums.end()) - sums.begin());
}

}  // namespace

std::array<float, kMseGridPoints> MseGridScales(const CastSetup& setup, uint32_t amax_bits) {
  GridScales scales;
  for (int i = 0; i < kMseGridPoints; ++i) {
    const float p = static_cast<float>(1.0 - i / 100.0);
    const float amax = FloatFromBits(amax_bits) * p;
    scales[i] = RoundScale(amax / setup.code_max, setup.scale_type);
  }
  return scales;
}

absl::StatusOr<uint32_t> MseSearch::Amax(const WeightRows& rows) const {
  FpEnv env;
  return WindowAmax(*setup_.ops, rows, {0, rows.rows, 0, rows.columns});
}

absl::StatusOr<std::vector<double>> MseSearch::GridErrors(const WeightRows& rows,
                                                          uint32_t joint_amax_bits) const {
  if (joint_amax_bits == 0) return std::vector<double>(kMseGridPoints, 0.0);
  FpEnv env;
  const Window all = {0, rows.rows, 0, rows.columns};
  OCTAVO_RETURN_IF_ERROR(WindowAmax(*setup_.ops, rows, all).status());
  const GridSums sums = WindowErrors(setup_, rows, all, MseGridScales(setup_, joint_amax_bits));
  return std::vector<double>(sums.begin(), sums.end());
}

absl::StatusOr<v1::PieceReport> MseSearch::Quantize(const WeightRows& rows,
                                                    const v1::TieStat* joint,
                                                    std::span<std::byte> codes,
                                                    std::span<std::byte> scales) const {
  FpEnv env;
  const bool tied = joint != nullptr && setup_.format.granularity() == v1::PER_TENSOR;
  if (tied && joint->amax_bits() != 0 && joint->mse_errors_size() != kMseGridPoints) {
    return MakeError(Reason::kInternal,
                     fmt::format("a joint scale needs {} merged error sums, got {}", kMseGridPoints,
                                 joint->mse_errors_size()),
                     {.file = rows.file, .tensor = rows.tensor});
  }
  const auto choose = [&](const WeightRows& piece, const Window& window, uint32_t amax_bits) {
    const GridScales grid = MseGridScales(setup_, amax_bits);
    if (tied) return grid[BestPoint(joint->mse_errors())];
    return grid[BestPoint(WindowErrors(setup_, piece, window, grid))];
  };
  return QuantizePiece(setup_, rows, joint, choose, codes, scales);
}

}  // namespace octavo
