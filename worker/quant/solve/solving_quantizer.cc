#include "worker/quant/solve/solving_quantizer.h"

#include <utility>

#include "core/base/status.h"
#include "core/tensor/bare/tree.h"

namespace octavo {

absl::StatusOr<std::unique_ptr<SolvingQuantizer>> SolvingQuantizer::Make(
    const QuantizeRule& rule, const SolveSetup& setup, Sparsity sparsity,
    std::vector<SolveReport>* reports) {
  std::unique_ptr<SolvingQuantizer> made(new SolvingQuantizer());
  OCTAVO_ASSIGN_OR_RETURN(made->nearest_, MakeQuantizer(rule, setup.isa));
  made->rule_ = rule;
  made->setup_ = setup;
  made->sparsity_ = sparsity;
  made->reports_ = reports;
  return made;
}

absl::StatusOr<uint32_t> SolvingQuantizer::Amax(const WeightRows& rows) const {
  return nearest_->Amax(rows);
}

absl::StatusOr<std::vector<double>> SolvingQuantizer::GridErrors(const WeightRows& rows,
                                                                 uint32_t joint_amax_bits) const {
  return nearest_->GridErrors(rows, joint_amax_bits);
}

absl::StatusOr<v1::PieceReport> SolvingQuantizer::Quantize(const WeightRows& rows,
                                                           const v1::TieStat* joint,
                                                           std::span<std::byte> codes,
                                                           std::span<std::byte> scales) const {
  OCTAVO_ASSIGN_OR_RETURN(SolveReport report,
                          SolveRows(setup_, rows, rule_, joint, sparsity_, codes, scales));
  v1::PieceReport piece = std::move(report.piece);
  reports_->push_back(std::move(report));
  return piece;
}

SolveReport MergeSolveReports(std::span<const SolveReport> reports) {
  std::vector<SolveReport> parts(reports.begin(), reports.end());
  for (const MergeStep& step : MergeSteps(static_cast<int>(parts.size()))) {
    SolveReport& into = parts[static_cast<size_t>(step.into)];
    const SolveReport& from = parts[static_cast<size_t>(step.from)];
    into.error_before += from.error_before;
    into.error_after += from.error_after;
    into.nearest_rows += from.nearest_rows;
    into.sparse_rows += from.sparse_rows;
  }
  return parts.empty() ? SolveReport{} : std::move(parts.front());
}

}  // namespace octavo
