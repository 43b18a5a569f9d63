#include "worker/stage/sense.h"

#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/plan/scratch_files.h"
#include "core/plan/solve_memory.h"
#include "core/store/local_store.h"
#include "core/tensor/bare/units.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/quant/solve/output_error.h"
#include "worker/stage/expert_rows.h"
#include "worker/stage/unit_run.h"

namespace octavo {
namespace {

// One task on its way.
class SenseRun {
 public:
  SenseRun(const v1::Task& task, Isa isa, int threads, std::stop_token stop)
      : task_(task),
        unit_(task.unit()),
        spec_(task.unit().hessian()),
        isa_(isa),
        stop_(std::move(stop)),
        arena_(0),
        pool_(threads),
        parts_(static_cast<size_t>(task.unit().pieces_size())) {}

  absl::StatusOr<v1::Receipt> Do();

 private:
  absl::Status AddRows(const KeptRows& kept);
  absl::Status MeasurePart();

  const v1::Task& task_;
  const v1::Unit& unit_;
  const v1::HessianSpec& spec_;
  const Isa isa_;
  const std::stop_token stop_;
  LocalStore store_;
  Arena arena_;
  ThreadPool pool_;
  std::unique_ptr<OutputTokens> tokens_;
  std::vector<std::vector<OutputSums>> parts_;  // by piece: of every part of the tokens
  uint64_t tokens_seen_ = 0;
  v1::Receipt receipt_;  // figures of what was done so far
};

absl::Status SenseRun::AddRows(const KeptRows& kept) {
  const std::string path =
      JoinPath(task_.scratch_dir(), KeptFileName(unit_.layer(), kept.batch, spec_.point()));
  const auto row_bytes = static_cast<uint64_t>(spec_.channels()) * 2;
  std::vector<uint16_t> rows;
  for (int64_t row = 0; row < kept.count;) {
    if (stop_.stop_requested()) return MakeError(Reason::kCancelled, "the task was stopped");
    if (tokens_->tokens() == kSenseTokens) OCTAVO_RETURN_IF_ERROR(MeasurePart());
    const int64_t count =
        std::min({kHessianReadTokens, kept.count - row, kSenseTokens - tokens_->tokens()});
    rows.resize(static_cast<size_t>(count * spec_.channels()));
    double seconds = 0;
    {
      const Stopwatch watch(&seconds);
      OCTAVO_RETURN_IF_ERROR(store_.ReadAt(path,
                                           (kept.begin + static_cast<uint64_t>(row)) * row_bytes,
                                           std::as_writable_bytes(std::span(rows))));
    }
    receipt_.set_read_seconds(receipt_.read_seconds() + seconds);
    receipt_.set_bytes_read(receipt_.bytes_read() + static_cast<uint64_t>(count) * row_bytes);
    tokens_->Add(rows.data(), count, spec_.channels());
    row += count;
  }
  return absl::OkStatus();
}

// All pieces go through a quantizer that measures; every call of it is at most 128 rows.
absl::Status SenseRun::MeasurePart() {
  std::vector<std::vector<OutputSums>> blocks(parts_.size());
  size_t made = 0;
  BufferBudget budget(UnitRun::BufferBytesOf(task_));
  const QuantizerMaker make =
      [&](const QuantizeRule& rule) -> absl::StatusOr<std::unique_ptr<Quantizer>> {
    return MeasuringQuantizer::Make(rule, tokens_.get(), isa_, &arena_, &pool_, &blocks[made++]);
  };
  OCTAVO_ASSIGN_OR_RETURN(const std::unique_ptr<UnitRun> run,
                          UnitRun::Open(task_, make, &budget, stop_));
  OCTAVO_RETURN_IF_ERROR(run->Do());
  const v1::Receipt done = run->TakeReceipt();
  receipt_.set_bytes_read(receipt_.bytes_read() + done.bytes_read());
  receipt_.set_read_seconds(receipt_.read_seconds() + done.read_seconds());
  receipt_.set_cast_seconds(receipt_.cast_seconds() + done.cast_seconds());
  for (size_t i = 0; i < parts_.size(); ++i) parts_[i].push_back(MergeOutputSums(blocks[i]));
  tokens_seen_ += static_cast<uint64_t>(tokens_->tokens());
  tokens_->Clear();
  return absl::OkStatus();
}

absl::StatusOr<v1::Receipt> SenseRun::Do() {
  OCTAVO_ASSIGN_OR_RETURN(
      OutputTokens tokens,
      OutputTokens::Make(spec_.channels(), spec_.has_input() ? &spec_.input() : nullptr, isa_,
                         &arena_, &pool_));
  tokens_ = std::make_unique<OutputTokens>(std::move(tokens));
  std::vector<KeptRows> rows = KeptOfTokens(task_);
  if (spec_.expert() >= 0) {
    OCTAVO_ASSIGN_OR_RETURN(const ExpertRows experts,
                            ExpertRows::Read(task_.scratch_dir(), unit_.layer(), spec_.point(),
                                             task_.solve().batches_size()));
    rows = experts.Of(spec_.expert());
  }
  for (const KeptRows& kept : rows) OCTAVO_RETURN_IF_ERROR(AddRows(kept));
  if (tokens_->tokens() > 0) OCTAVO_RETURN_IF_ERROR(MeasurePart());
  for (int i = 0; i < unit_.pieces_size(); ++i) {
    const OutputSums sums = MergeOutputSums(parts_[static_cast<size_t>(i)]);
    v1::OutputError* out = receipt_.add_outputs();
    out->set_tensor(unit_.pieces(i).source().name());
    out->set_tokens(tokens_seen_);
    out->set_squared_output(sums.output);
    out->set_weights_error(sums.weights);
    out->set_inputs_error(sums.inputs);
    out->set_error(sums.both);
  }
  return std::move(receipt_);
}

}  // namespace

absl::StatusOr<v1::Receipt> RunSense(const v1::Task& task, Isa isa, int threads, LayerCache* memory,
                                     const std::stop_token& stop) {
  const v1::HessianSpec& spec = task.unit().hessian();
  if (spec.channels() <= 0 || task.solve().batches().empty()) {
    return MakeError(Reason::kInternal, "a measuring task without inputs");
  }
  const auto pieces = static_cast<uint64_t>(task.unit().pieces_size());
  OCTAVO_ASSIGN_OR_RETURN(
      const LayerCache::Loan loan,
      memory->BorrowBytes(
          SenseBytes(spec.channels(), pieces, threads) + UnitRun::BufferBytesOf(task), stop));
  SenseRun run(task, isa, threads, stop);
  OCTAVO_ASSIGN_OR_RETURN(v1::Receipt receipt, run.Do());
  receipt.set_job_id(task.job_id());
  receipt.set_unit_id(task.unit().id());
  receipt.set_epoch(task.epoch());
  return receipt;
}

}  // namespace octavo
