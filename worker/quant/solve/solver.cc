#include "worker/quant/solve/solver.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/scheme/compat.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/lane_sum.h"
#include "core/tensor/bare/units.h"
#include "worker/quant/piece.h"
#include "worker/quant/solve/band.h"
#include "worker/quant/solve/mask.h"

namespace octavo {
namespace {

absl::Status CheckSparsity(const HessianFactor& factor, Sparsity sparsity) {
  if (sparsity != Sparsity::kTwoOfFour) return absl::OkStatus();
  if (factor.channels % kMaskGroup != 0) {
    return MakeError(Reason::kUnsupported, "a 2:4 pattern needs a multiple of four columns");
  }
  if (factor.column_order == ColumnOrder::kActivation) {
    return MakeError(Reason::kUnsupported,
                     "a 2:4 pattern cannot be chosen column by column in the order of activations",
                     {}, "Order the columns in runs of four");
  }
  return absl::OkStatus();
}

// Groups whose weights are all zero: they keep code 0, whatever errors are fed into them.
std::vector<uint8_t> ZeroGroups(const WeightRows& rows, const Coder& coder) {
  std::vector<uint8_t> zero(coder.scales.size(), coder.code ? 1 : 0);
  if (!coder.code) return zero;
  for (int64_t row = 0; row < rows.rows; ++row) {
    for (int64_t channel = 0; channel < rows.columns; ++channel) {
      if (SourceAt(rows, row, channel) != 0) zero[coder.GroupOf(row, channel)] = 0;
    }
  }
  return zero;
}

// The figures of one row of what was written, added to the report's.
struct RowFigures {
  double squared_error = 0;
  double squared_source = 0;
  double max_abs_error = 0;
  uint64_t saturated = 0;
};

RowFigures FiguresOf(const BandJob& job, int64_t row) {
  RowFigures out;
  LaneSum<double> error_sum, source_sum;
  for (int64_t channel = 0; channel < job.rows.columns; ++channel) {
    const uint32_t bits = LoadStored(job.coder, job.stored, row * job.rows.columns + channel);
    const float value = job.coder.Value(bits);
    const float source = SourceAt(job.rows, row, channel);
    const float scale = job.coder.scales[job.coder.GroupOf(row, channel)];
    const double error = __builtin_fmaf(value, scale, -source);
    const double wide = source;
    error_sum.Add(static_cast<size_t>(channel), error * error);  // squares are exact in F64
    source_sum.Add(static_cast<size_t>(channel), wide * wide);
    out.max_abs_error = std::max(out.max_abs_error, std::fabs(error));
    if (job.coder.code && std::fabs(value) >= CodeMax(*job.coder.code)) ++out.saturated;
  }
  out.squared_error = error_sum.Fold();
  out.squared_source = source_sum.Fold();
  return out;
}

// Fills all of the report but what only scales know.
SolveReport ReportOf(const BandJob& job, const std::vector<RowOutcome>& outcomes,
                     const std::vector<RowFigures>& figures) {
  SolveReport report;
  RowBlockSum before, after, squared_error, squared_source;
  double max_abs_error = 0;
  uint64_t saturated = 0;
  for (int64_t row = 0; row < job.rows.rows; ++row) {
    const auto index = static_cast<size_t>(row);
    const int64_t absolute = job.rows.row_begin + row;
    before.Add(absolute, outcomes[index].error_before);
    after.Add(absolute, outcomes[index].error_after);
    squared_error.Add(absolute, figures[index].squared_error);
    squared_source.Add(absolute, figures[index].squared_source);
    max_abs_error = std::max(max_abs_error, figures[index].max_abs_error);
    saturated += figures[index].saturated;
    report.nearest_rows += outcomes[index].nearest ? 1 : 0;
    report.sparse_rows += job.sparse_rows[index];
  }
  report.error_before = before.Merge();
  report.error_after = after.Merge();
  report.piece.set_tensor(std::string(job.rows.tensor));
  report.piece.set_squared_error(squared_error.Merge());
  report.piece.set_squared_source(squared_source.Merge());
  report.piece.set_max_abs_error(max_abs_error);
  report.piece.set_elements(static_cast<uint64_t>(job.rows.rows * job.rows.columns));
  report.piece.set_saturated(saturated);
  return report;
}

// Solves all bands of a job whose rows, coder and nearest codes are set.
absl::StatusOr<SolveReport> RunJob(const SolveSetup& setup, BandJob job) {
  job.factor = setup.factor;
  job.ops = &MatmulF64OpsFor(setup.isa);
  job.zero_groups = ZeroGroups(job.rows, job.coder);
  for (int64_t row = 0; row < job.rows.rows; ++row) {
    job.sparse_rows.push_back(IsTwoOfFour(job.rows, row) ? 1 : 0);
  }
  std::vector<Buffer> scratch;
  for (int thread = 0; thread < setup.pool->size(); ++thread) {
    OCTAVO_ASSIGN_OR_RETURN(Buffer buffer,
                            setup.arena->Allocate(Band::ScratchBytes(setup.factor->channels),
                                                  "rows that are being solved"));
    scratch.push_back(std::move(buffer));
  }
  std::vector<RowOutcome> outcomes(static_cast<size_t>(job.rows.rows));
  std::vector<RowFigures> figures(static_cast<size_t>(job.rows.rows));
  setup.pool->ParallelFor(CeilDiv(job.rows.rows, kBandRows), 1,
                          [&](int64_t begin, int64_t end, int thread) {
                            Band band(job, scratch[static_cast<size_t>(thread)].data());
                            for (int64_t row = begin * kBandRows;
                                 row < std::min(end * kBandRows, job.rows.rows); row += kBandRows) {
                              const int64_t count = std::min(kBandRows, job.rows.rows - row);
                              band.Solve(row, count, outcomes.data() + row);
                              for (int64_t r = row; r < row + count; ++r) {
                                figures[static_cast<size_t>(r)] = FiguresOf(job, r);
                              }
                            }
                          });
  return ReportOf(job, outcomes, figures);
}

}  // namespace

absl::StatusOr<SolveReport> SolveRows(const SolveSetup& setup, const WeightRows& rows,
                                      const QuantizeRule& rule, const v1::TieStat* joint,
                                      Sparsity sparsity, std::span<std::byte> codes,
                                      std::span<std::byte> scales) {
  const FpEnv env;
  OCTAVO_CHECK(rows.columns == setup.factor->channels);
  OCTAVO_RETURN_IF_ERROR(CheckSparsity(*setup.factor, sparsity));
  OCTAVO_ASSIGN_OR_RETURN(std::unique_ptr<Quantizer> nearest, MakeQuantizer(rule, setup.isa));
  if (rule.compat != v1::COMPAT_NONE &&
      (!CompatModeOf(rule.compat).solves || rule.format.type() != v1::NUMERIC_INT8)) {
    return MakeError(Reason::kUnsupported,
                     "second-order solving of this format has no such compatibility mode");
  }
  OCTAVO_ASSIGN_OR_RETURN(v1::PieceReport piece, nearest->Quantize(rows, joint, codes, scales));
  BandJob job;
  job.rows = rows;
  job.coder = CoderOfScales(rule, rows, scales);
  job.sparsity = sparsity;
  job.stored = codes;
  OCTAVO_ASSIGN_OR_RETURN(SolveReport report, RunJob(setup, std::move(job)));
  report.piece.set_zero_groups(piece.zero_groups());
  report.piece.set_scale_min(piece.scale_min());
  report.piece.set_scale_max(piece.scale_max());
  return report;
}

absl::StatusOr<SolveReport> PruneRows(const SolveSetup& setup, const WeightRows& rows,
                                      std::span<std::byte> values) {
  const FpEnv env;
  OCTAVO_CHECK(rows.columns == setup.factor->channels && values.size() == rows.bytes.size());
  OCTAVO_RETURN_IF_ERROR(CheckSparsity(*setup.factor, Sparsity::kTwoOfFour));
  OCTAVO_RETURN_IF_ERROR(
      WindowAmax(QuantizeOpsFor(setup.isa), rows, {0, rows.rows, 0, rows.columns}).status());
  std::memcpy(values.data(), rows.bytes.data(), values.size());
  BandJob job;
  job.rows = rows;
  job.coder = CoderOfValues(rows);
  job.sparsity = Sparsity::kTwoOfFour;
  job.stored = values;
  return RunJob(setup, std::move(job));
}

}  // namespace octavo
