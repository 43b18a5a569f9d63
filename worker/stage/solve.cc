#include "worker/stage/solve.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/plan/solve_memory.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/quant/solve/factor.h"
#include "worker/quant/solve/hessian.h"
#include "worker/quant/solve/solving_quantizer.h"
#include "worker/stage/expert_rows.h"
#include "worker/stage/hessian_maker.h"
#include "worker/stage/smooth.h"
#include "worker/stage/unit_run.h"

namespace octavo {
namespace {

// One task on its way.
class SolveRun {
 public:
  SolveRun(const v1::Task& task, Isa isa, int threads, const std::stop_token& stop)
      : task_(task),
        unit_(task.unit()),
        spec_(task.unit().hessian()),
        isa_(isa),
        stop_(stop),
        arena_(0),
        pool_(threads),
        maker_(task, isa, &arena_, &pool_, stop) {}

  absl::StatusOr<v1::Receipt> Sum() { return maker_.LeaveSum(); }
  absl::StatusOr<v1::Receipt> Solve();

 private:
  v1::SolveFigures NewFigures() const;
  absl::StatusOr<HessianFactor> Factor(Hessian hessian);
  absl::StatusOr<v1::Receipt> Write(const QuantizerMaker& make);
  bool IsSparse() const { return spec_.solver().kind() == v1::SOLVER_SPARSEGPT; }
  // Where there is no Hessian to speak of.
  absl::StatusOr<v1::Receipt> RoundToNearest(v1::SolveFigures figures);
  absl::StatusOr<v1::Receipt> PruneByMagnitude(v1::SolveFigures figures);
  // Folds the smoothing in, then SolveWith.
  absl::StatusOr<v1::Receipt> SolveUnder(Hessian hessian, v1::SolveFigures figures);
  absl::StatusOr<v1::Receipt> SolveWith(Hessian hessian, v1::SolveFigures figures);

  const v1::Task& task_;
  const v1::Unit& unit_;
  const v1::HessianSpec& spec_;
  const Isa isa_;
  const std::stop_token stop_;
  Arena arena_;
  ThreadPool pool_;
  HessianMaker maker_;
};

absl::StatusOr<HessianFactor> SolveRun::Factor(Hessian hessian) {
  const v1::Solver& solver = spec_.solver();
  FactorOptions options;
  options.damping = solver.damping();
  options.stop = stop_;
  if (solver.activation_order()) {
    options.order = IsSparse() ? ColumnOrder::kActivationByFours : ColumnOrder::kActivation;
  }
  return FactorHessian(hessian, options, isa_, &arena_, &pool_);
}

absl::StatusOr<v1::Receipt> SolveRun::Write(const QuantizerMaker& make) {
  BufferBudget budget(UnitRun::BufferBytesOf(task_));
  OCTAVO_ASSIGN_OR_RETURN(const std::unique_ptr<UnitRun> run,
                          UnitRun::Open(task_, make, &budget, stop_));
  OCTAVO_RETURN_IF_ERROR(run->Do());
  return run->TakeReceipt();
}

v1::SolveFigures SolveRun::NewFigures() const {
  v1::SolveFigures figures;
  figures.set_layer(unit_.layer());
  figures.set_point(spec_.point());
  figures.set_expert(spec_.expert());
  for (const v1::Piece& piece : unit_.pieces()) {
    figures.add_tensors(piece.source().name());
    figures.set_rows(figures.rows() + static_cast<uint64_t>(OutputsOf(piece)));
  }
  return figures;
}

absl::StatusOr<v1::Receipt> SolveRun::RoundToNearest(v1::SolveFigures figures) {
  OCTAVO_ASSIGN_OR_RETURN(v1::Receipt receipt, Write([&](const QuantizeRule& rule) {
                            return MakeQuantizer(rule, isa_);
                          }));
  figures.set_nearest_rows(figures.rows());
  *receipt.mutable_solved() = std::move(figures);
  return receipt;
}

// Every channel as important as any other, and none that goes with another: two of four stay by
// magnitude, nothing makes up for the rest, and what stays is rounded to nearest.
absl::StatusOr<v1::Receipt> SolveRun::PruneByMagnitude(v1::SolveFigures figures) {
  OCTAVO_ASSIGN_OR_RETURN(Hessian hessian, MakeHessian(spec_.channels(), &arena_));
  for (int64_t i = 0; i < hessian.channels; ++i) hessian.Row(i)[i] = 1;
  hessian.tokens = 1;
  OCTAVO_ASSIGN_OR_RETURN(v1::Receipt receipt, SolveWith(std::move(hessian), std::move(figures)));
  // Its errors are those of weights, not of outputs.
  receipt.mutable_solved()->clear_dampings();
  receipt.mutable_solved()->clear_error_before();
  receipt.mutable_solved()->clear_error_after();
  receipt.mutable_solved()->set_nearest_rows(receipt.solved().rows());
  return receipt;
}

absl::StatusOr<v1::Receipt> SolveRun::Solve() {
  v1::SolveFigures figures = NewFigures();
  if (spec_.expert() < 0) {
    OCTAVO_ASSIGN_OR_RETURN(Hessian hessian, maker_.OfLeaves());
    return SolveUnder(std::move(hessian), std::move(figures));
  }
  OCTAVO_ASSIGN_OR_RETURN(const ExpertRows rows, maker_.ReadExpertRows());
  const int64_t tokens = rows.CountOf(spec_.expert());
  if (tokens < ExpertLeastTokens(spec_.channels())) {
    figures.set_tokens(static_cast<uint64_t>(tokens));
    return IsSparse() ? PruneByMagnitude(std::move(figures)) : RoundToNearest(std::move(figures));
  }
  OCTAVO_ASSIGN_OR_RETURN(Hessian hessian, maker_.OfExpert(rows, &figures));
  return SolveUnder(std::move(hessian), std::move(figures));
}

absl::StatusOr<v1::Receipt> SolveRun::SolveUnder(Hessian hessian, v1::SolveFigures figures) {
  if (unit_.pieces(0).has_fold()) {
    OCTAVO_ASSIGN_OR_RETURN(const Exponents exponents, ReadFold(task_, unit_.pieces(0).fold()));
    FoldHessian(exponents, &hessian);
  }
  figures.set_tokens(static_cast<uint64_t>(hessian.tokens));
  return SolveWith(std::move(hessian), std::move(figures));
}

absl::StatusOr<v1::Receipt> SolveRun::SolveWith(Hessian hessian, v1::SolveFigures figures) {
  const absl::StatusOr<HessianFactor> factor = Factor(std::move(hessian));
  if (!factor.ok()) {
    return WithContext(factor.status(), fmt::format("layer {}, what {} reads", unit_.layer(),
                                                    unit_.pieces(0).source().name()));
  }
  std::vector<SolveReport> reports;
  const SolveSetup setup{&*factor, isa_, &arena_, &pool_};
  const Sparsity sparsity = IsSparse() ? Sparsity::kTwoOfFour : Sparsity::kKeep;
  OCTAVO_ASSIGN_OR_RETURN(
      v1::Receipt receipt,
      Write([&](const QuantizeRule& rule) -> absl::StatusOr<std::unique_ptr<Quantizer>> {
        return SolvingQuantizer::Make(rule, setup, sparsity, &reports);
      }));
  const SolveReport all = MergeSolveReports(reports);
  figures.mutable_dampings()->Add(factor->tried.begin(), factor->tried.end());
  figures.set_dead_channels(
      static_cast<uint64_t>(std::count(factor->dead.begin(), factor->dead.end(), 1)));
  figures.set_error_before(all.error_before);
  figures.set_error_after(all.error_after);
  figures.set_nearest_rows(static_cast<uint64_t>(all.nearest_rows));
  figures.set_sparse_rows(static_cast<uint64_t>(all.sparse_rows));
  *receipt.mutable_solved() = std::move(figures);
  return receipt;
}

}  // namespace

absl::StatusOr<v1::Receipt> RunSolve(const v1::Task& task, Isa isa, int threads, LayerCache* memory,
                                     const std::stop_token& stop) {
  const v1::HessianSpec& spec = task.unit().hessian();
  if (spec.channels() <= 0 || task.solve().batches().empty()) {
    return MakeError(Reason::kInternal, "a solving task without a Hessian");
  }
  const bool sums = task.unit().kind() == v1::UNIT_HESSIAN;
  const uint64_t bytes =
      sums ? HessianLeafBytes(spec.channels())
           : SolveBytes(spec.channels(), spec.leaf_count(), threads) + UnitRun::BufferBytesOf(task);
  OCTAVO_ASSIGN_OR_RETURN(const LayerCache::Loan loan, memory->BorrowBytes(bytes, stop));
  SolveRun run(task, isa, threads, stop);
  OCTAVO_ASSIGN_OR_RETURN(v1::Receipt receipt, sums ? run.Sum() : run.Solve());
  receipt.set_job_id(task.job_id());
  receipt.set_unit_id(task.unit().id());
  receipt.set_epoch(task.epoch());
  return receipt;
}

}  // namespace octavo
