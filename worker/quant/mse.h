#pragma once

// MSE: of the 20 scales made from amax * p, p = 1.00, 0.99 .. 0.81, each rounded to its stored
// type, the one with the smallest sum of |code * scale - x|^2.4; ties go to the larger p. All
// points are evaluated for every group on its own, so a row's result never depends on other rows.
// Sums are F64 lane sums per row, rows ascending within a 128-row block, blocks merged over Tree.

#include <array>

#include "worker/quant/piece.h"

namespace octavo {

class MseSearch final : public Quantizer {
 public:
  explicit MseSearch(CastSetup setup) : setup_(std::move(setup)) {}

  absl::StatusOr<uint32_t> Amax(const WeightRows& rows) const override;
  absl::StatusOr<std::vector<double>> GridErrors(const WeightRows& rows,
                                                 uint32_t joint_amax_bits) const override;
  // With `joint`, its mse_errors decide.
  absl::StatusOr<v1::PieceReport> Quantize(const WeightRows& rows, const v1::TieStat* joint,
                                           std::span<std::byte> codes,
                                           std::span<std::byte> scales) const override;

 private:
  CastSetup setup_;
};

// The grid's scales for a maximum that is not zero, p = 1.00 first.
std::array<float, kMseGridPoints> MseGridScales(const CastSetup& setup, uint32_t amax_bits);

}  // namespace octavo
