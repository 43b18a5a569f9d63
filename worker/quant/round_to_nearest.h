#pragma once

// Absmax: scale = amax / 448 or amax / 127, rounded once to its stored type; codes are the nearest
// under that stored scale.

#include "worker/quant/piece.h"

namespace octavo {

class RoundToNearest final : public Quantizer {
 public:
  explicit RoundToNearest(CastSetup setup) : setup_(std::move(setup)) {}

  absl::StatusOr<uint32_t> Amax(const WeightRows& rows) const override;
  // Empty: there is no grid.
  absl::StatusOr<std::vector<double>> GridErrors(const WeightRows& rows,
                                                 uint32_t joint_amax_bits) const override;
  absl::StatusOr<v1::PieceReport> Quantize(const WeightRows& rows, const v1::TieStat* joint,
                                           std::span<std::byte> codes,
                                           std::span<std::byte> scales) const override;

 private:
  CastSetup setup_;
};

}  // namespace octavo
