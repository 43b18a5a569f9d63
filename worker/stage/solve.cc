#include "worker/stage/solve.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/fault.h"
#include "core/base/status.h"
#include "core/plan/scratch_files.h"
#include "core/plan/solve_memory.h"
#include "core/store/local_store.h"
#include "core/store/store.h"
#include "core/tensor/bare/units.h"
#include "fmt/format.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/quant/solve/factor.h"
#include "worker/quant/solve/hessian.h"
#include "worker/quant/solve/solving_quantizer.h"
#include "worker/stage/scratch_writer.h"
#include "worker/stage/smooth.h"
#include "worker/stage/unit_run.h"

namespace octavo {
namespace {

// One task on its way.
class SolveRun {
 public:
  SolveRun(const v1::Task& task, Isa isa, int threads, std::stop_token stop)
      : task_(task),
        unit_(task.unit()),
        spec_(task.unit().hessian()),
        isa_(isa),
        stop_(std::move(stop)),
        arena_(0),
        pool_(threads) {}

  absl::StatusOr<v1::Receipt> SumLeaf();
  absl::StatusOr<v1::Receipt> Solve();

 private:
  // A micro-batch's kept rows of this Hessian: where they begin in its file, and how many.
  struct Kept {
    std::string path;
    uint64_t begin = 0;
    int64_t rows = 0;
  };

  std::string Path(const std::string& name) const { return JoinPath(task_.scratch_dir(), name); }
  absl::Status CheckStop() const {
    if (!stop_.stop_requested()) return absl::OkStatus();
    return MakeError(Reason::kCancelled, "the task was stopped");
  }
  absl::StatusOr<Kept> KeptOfExpert(uint32_t batch);
  absl::Status AddRows(const Kept& kept, HessianLeaf* leaf);
  absl::Status LeaveLeaf(const Hessian& hessian, v1::Receipt* receipt);
  absl::StatusOr<Hessian> ReadLeaf(uint32_t leaf);
  absl::StatusOr<Hessian> SumOfLeaves();
  absl::StatusOr<Hessian> SumOfExpert();
  absl::StatusOr<HessianFactor> Factor(Hessian hessian) const;
  absl::StatusOr<v1::Receipt> Write(const QuantizerMaker& make);

  const v1::Task& task_;
  const v1::Unit& unit_;
  const v1::HessianSpec& spec_;
  const Isa isa_;
  const std::stop_token stop_;
  LocalStore store_;
  mutable Arena arena_;
  mutable ThreadPool pool_;
  double read_seconds_ = 0;
  double compute_seconds_ = 0;
};

// Rows of experts lie one expert after the other; the statistics say how many each has.
absl::StatusOr<SolveRun::Kept> SolveRun::KeptOfExpert(uint32_t batch) {
  constexpr uint64_t kStatsBytesMax = 64u << 20;
  const std::string path = Path(StatsFileName(unit_.layer(), batch));
  OCTAVO_ASSIGN_OR_RETURN(const std::string text, ReadWhole(store_, path, kStatsBytesMax));
  v1::LayerStats stats;
  if (!stats.ParseFromString(text)) {
    return MakeError(Reason::kCorrupted, "not statistics of a layer", {.file = path});
  }
  Kept kept{Path(KeptFileName(unit_.layer(), batch, spec_.point())), 0, 0};
  for (const v1::PointStat& stat : stats.points()) {
    if (stat.point() != spec_.point()) continue;
    if (stat.expert() < spec_.expert()) {
      kept.begin += stat.rows() * static_cast<uint64_t>(spec_.channels()) * 2;
    } else if (stat.expert() == spec_.expert()) {
      kept.rows = static_cast<int64_t>(stat.rows());
    }
  }
  return kept;
}

absl::Status SolveRun::AddRows(const Kept& kept, HessianLeaf* leaf) {
  std::vector<uint16_t> rows;
  const uint64_t row_bytes = static_cast<uint64_t>(spec_.channels()) * 2;
  for (int64_t row = 0; row < kept.rows; row += kHessianReadTokens) {
    OCTAVO_RETURN_IF_ERROR(CheckStop());
    const int64_t count = std::min(kHessianReadTokens, kept.rows - row);
    rows.resize(static_cast<size_t>(count * spec_.channels()));
    {
      const Stopwatch watch(&read_seconds_);
      OCTAVO_RETURN_IF_ERROR(store_.ReadAt(kept.path,
                                           kept.begin + static_cast<uint64_t>(row) * row_bytes,
                                           std::as_writable_bytes(std::span(rows))));
    }
    const Stopwatch watch(&compute_seconds_);
    leaf->Add(rows.data(), count, spec_.channels());
  }
  return absl::OkStatus();
}

absl::Status SolveRun::LeaveLeaf(const Hessian& hessian, v1::Receipt* receipt) {
  OCTAVO_ASSIGN_OR_RETURN(
      ScratchWriter writer,
      ScratchWriter::Create(task_.scratch_dir(),
                            HessianFileName(unit_.layer(), spec_.point(), spec_.leaf()),
                            HessianFileBytes(hessian.channels)));
  std::vector<float> some;
  for (int64_t i = 0; i < hessian.channels; ++i) {
    some.insert(some.end(), hessian.Row(i) + i, hessian.Row(i) + hessian.channels);
    if (some.size() * sizeof(float) < kChunkBytes && i + 1 < hessian.channels) continue;
    OCTAVO_RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(some))));
    some.clear();
  }
  FaultPoint("mid-write");
  return writer.Finish(receipt);
}

absl::StatusOr<v1::Receipt> SolveRun::SumLeaf() {
  OCTAVO_ASSIGN_OR_RETURN(HessianLeaf leaf,
                          HessianLeaf::Make(spec_.channels(), isa_, &arena_, &pool_));
  const uint64_t row_bytes = static_cast<uint64_t>(spec_.channels()) * 2;
  for (int batch = 0; batch < task_.solve().batches_size(); ++batch) {
    const v1::MicroBatch& cut = task_.solve().batches(batch);
    const uint64_t begin = std::max(cut.token_begin(), spec_.token_begin());
    const uint64_t end = std::min(cut.token_end(), spec_.token_end());
    if (begin >= end) continue;
    OCTAVO_RETURN_IF_ERROR(
        AddRows({Path(KeptFileName(unit_.layer(), static_cast<uint32_t>(batch), spec_.point())),
                 (begin - cut.token_begin()) * row_bytes, static_cast<int64_t>(end - begin)},
                &leaf));
  }
  v1::Receipt receipt;
  OCTAVO_RETURN_IF_ERROR(LeaveLeaf(leaf.Finish(), &receipt));
  receipt.set_bytes_read((spec_.token_end() - spec_.token_begin()) * row_bytes);
  receipt.set_read_seconds(read_seconds_);
  receipt.set_cast_seconds(compute_seconds_);
  return receipt;
}

absl::StatusOr<Hessian> SolveRun::ReadLeaf(uint32_t leaf) {
  OCTAVO_RETURN_IF_ERROR(CheckStop());
  OCTAVO_ASSIGN_OR_RETURN(Hessian hessian, MakeHessian(spec_.channels(), &arena_));
  const std::string path = Path(HessianFileName(unit_.layer(), spec_.point(), leaf));
  const uint64_t tokens = task_.solve().batches(task_.solve().batches_size() - 1).token_end();
  const auto leaf_tokens = static_cast<uint64_t>(HessianLeafTokens(static_cast<int64_t>(tokens)));
  hessian.tokens =
      static_cast<int64_t>(std::min(tokens, (leaf + 1) * leaf_tokens) - leaf * leaf_tokens);
  const Stopwatch watch(&read_seconds_);
  std::vector<float> some;
  uint64_t at = 0;
  for (int64_t row = 0; row < hessian.channels;) {
    int64_t end = row;
    int64_t count = 0;
    while (end < hessian.channels && count * sizeof(float) < kChunkBytes) {
      count += hessian.channels - end++;
    }
    some.resize(static_cast<size_t>(count));
    OCTAVO_RETURN_IF_ERROR(store_.ReadAt(path, at, std::as_writable_bytes(std::span(some))));
    at += some.size() * sizeof(float);
    const float* from = some.data();
    for (; row < end; ++row) {
      std::copy_n(from, hessian.channels - row, hessian.Row(row) + row);
      from += hessian.channels - row;
    }
  }
  return hessian;
}

absl::StatusOr<Hessian> SolveRun::SumOfLeaves() {
  HessianTree tree(isa_, &pool_);
  for (uint32_t leaf = 0; leaf < spec_.leaf_count(); ++leaf) {
    OCTAVO_ASSIGN_OR_RETURN(Hessian hessian, ReadLeaf(leaf));
    tree.Push(std::move(hessian));
  }
  return tree.Finish();
}

absl::StatusOr<Hessian> SolveRun::SumOfExpert() {
  OCTAVO_ASSIGN_OR_RETURN(HessianLeaf leaf,
                          HessianLeaf::Make(spec_.channels(), isa_, &arena_, &pool_));
  for (int batch = 0; batch < task_.solve().batches_size(); ++batch) {
    OCTAVO_ASSIGN_OR_RETURN(const Kept kept, KeptOfExpert(static_cast<uint32_t>(batch)));
    OCTAVO_RETURN_IF_ERROR(AddRows(kept, &leaf));
  }
  return leaf.Finish();
}

absl::StatusOr<HessianFactor> SolveRun::Factor(Hessian hessian) const {
  const v1::Solver& solver = spec_.solver();
  FactorOptions options;
  options.damping = solver.damping();
  if (solver.activation_order()) {
    options.order = solver.kind() == v1::SOLVER_SPARSEGPT ? ColumnOrder::kActivationByFours
                                                          : ColumnOrder::kActivation;
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

absl::StatusOr<v1::Receipt> SolveRun::Solve() {
  OCTAVO_ASSIGN_OR_RETURN(Hessian hessian, spec_.expert() < 0 ? SumOfLeaves() : SumOfExpert());
  if (unit_.pieces(0).has_fold()) {
    OCTAVO_ASSIGN_OR_RETURN(const Exponents exponents, ReadFold(task_, unit_.pieces(0).fold()));
    FoldHessian(exponents, &hessian);
  }
  v1::SolveFigures figures;
  figures.set_layer(unit_.layer());
  figures.set_point(spec_.point());
  figures.set_expert(spec_.expert());
  figures.set_tokens(static_cast<uint64_t>(hessian.tokens));
  for (const v1::Piece& piece : unit_.pieces()) {
    figures.add_tensors(piece.source().name());
    figures.set_rows(figures.rows() + static_cast<uint64_t>(RowsOf(piece.source())));
  }
  v1::Receipt receipt;
  if (spec_.expert() >= 0 && hessian.tokens < spec_.channels() / 4) {
    OCTAVO_ASSIGN_OR_RETURN(
        receipt, Write([&](const QuantizeRule& rule) { return MakeQuantizer(rule, isa_); }));
    figures.set_nearest_rows(figures.rows());
    *receipt.mutable_solved() = std::move(figures);
    return receipt;
  }
  const absl::StatusOr<HessianFactor> factor = Factor(std::move(hessian));
  if (!factor.ok()) {
    return WithContext(factor.status(), fmt::format("layer {}, what {} reads", unit_.layer(),
                                                    unit_.pieces(0).source().name()));
  }
  std::vector<SolveReport> reports;
  const SolveSetup setup{&*factor, isa_, &arena_, &pool_};
  const Sparsity sparsity =
      spec_.solver().kind() == v1::SOLVER_SPARSEGPT ? Sparsity::kTwoOfFour : Sparsity::kKeep;
  OCTAVO_ASSIGN_OR_RETURN(
      receipt, Write([&](const QuantizeRule& rule) -> absl::StatusOr<std::unique_ptr<Quantizer>> {
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
  if (!LocalStore().Exists(JoinPath(task.scratch_dir(), kIdsFileName))) {
    return MakeError(Reason::kFenced, "the scratch folder is gone: its job ended",
                     {.file = task.scratch_dir()});
  }
  const bool sums = task.unit().kind() == v1::UNIT_HESSIAN;
  const uint64_t bytes =
      sums ? HessianLeafBytes(spec.channels())
           : SolveBytes(spec.channels(), spec.leaf_count(), threads) + UnitRun::BufferBytesOf(task);
  OCTAVO_ASSIGN_OR_RETURN(const LayerCache::Loan loan, memory->BorrowBytes(bytes, stop));
  SolveRun run(task, isa, threads, stop);
  OCTAVO_ASSIGN_OR_RETURN(v1::Receipt receipt, sums ? run.SumLeaf() : run.Solve());
  receipt.set_job_id(task.job_id());
  receipt.set_unit_id(task.unit().id());
  receipt.set_epoch(task.epoch());
  return receipt;
}

}  // namespace octavo
