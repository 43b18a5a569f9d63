#include "worker/quant/round_to_nearest.h"

#include "core/tensor/bare/fp_env.h"

namespace octavo {

absl::StatusOr<uint32_t> RoundToNearest::Amax(const WeightRows& rows) const {
  FpEnv env;
  return WindowAmax(*setup_.ops, rows, {0, rows.rows, 0, rows.columns});
}

absl::StatusOr<std::vector<double>> RoundToNearest::GridErrors(const WeightRows&, uint32_t) const {
  return std::vector<double>();
}

absl::StatusOr<v1::PieceReport> RoundToNearest::Quantize(const WeightRows& rows,
                                                         const v1::TieStat* joint,
                                                         std::span<std::byte> codes,
                                                         std::span<std::byte> scales) const {
  FpEnv env;
  const auto choose = [this](const WeightRows&, const Window&, uint32_t amax_bits) {
    return CompatScale(*setup_.mode, amax_bits, setup_.code_max, setup_.scale_type);
  };
  return QuantizePiece(setup_, rows, joint, choose, codes, scales);
}

}  // namespace octavo
