#pragma once

// Second-order solving behind the Quantizer seam: whoever streams rows through a quantizer solves
// them, and asks at the end what it came to.

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/quant/quantizer.h"
#include "worker/quant/solve/solver.h"

namespace octavo {

// Unlike others it counts: one caller at a time.
class SolvingQuantizer final : public Quantizer {
 public:
  // What is solved goes into `*reports`, in the order of the calls; it outlives the quantizer, as
  // does what `setup` points to. Errors: as MakeQuantizer.
  static absl::StatusOr<std::unique_ptr<SolvingQuantizer>> Make(const QuantizeRule& rule,
                                                                const SolveSetup& setup,
                                                                Sparsity sparsity,
                                                                std::vector<SolveReport>* reports);

  absl::StatusOr<uint32_t> Amax(const WeightRows& rows) const override;
  absl::StatusOr<std::vector<double>> GridErrors(const WeightRows& rows,
                                                 uint32_t joint_amax_bits) const override;
  absl::StatusOr<v1::PieceReport> Quantize(const WeightRows& rows, const v1::TieStat* joint,
                                           std::span<std::byte> codes,
                                           std::span<std::byte> scales) const override;

 private:
  SolvingQuantizer() = default;

  QuantizeRule rule_;
  SolveSetup setup_;
  Sparsity sparsity_ = Sparsity::kKeep;
  std::unique_ptr<Quantizer> nearest_;
  std::vector<SolveReport>* reports_ = nullptr;
};

// Reports of blocks of rows as one: sums over Tree. `piece` is left out.
SolveReport MergeSolveReports(std::span<const SolveReport> reports);

}  // namespace octavo
