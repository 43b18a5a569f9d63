#include "worker/stage/hessian_maker.h"

#include <algorithm>
#include <span>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/plan/scratch_files.h"
#include "core/plan/solve_memory.h"
#include "core/store/store.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/units.h"
#include "worker/quant/solve/shrink.h"
#include "worker/stage/hessian_file.h"
#include "worker/stage/unit_run.h"

namespace octavo {

HessianMaker::HessianMaker(const v1::Task& task, Isa isa, Arena* arena, ThreadPool* pool,
                           std::stop_token stop)
    : task_(task),
      layer_(task.unit().layer()),
      spec_(task.unit().hessian()),
      isa_(isa),
      arena_(arena),
      pool_(pool),
      stop_(std::move(stop)) {}

std::string HessianMaker::Path(const std::string& name) const {
  return JoinPath(task_.scratch_dir(), name);
}

absl::Status HessianMaker::CheckStop() const {
  if (!stop_.stop_requested()) return absl::OkStatus();
  return MakeError(Reason::kCancelled, "the task was stopped");
}

absl::StatusOr<ExpertRows> HessianMaker::ReadExpertRows() const {
  return ExpertRows::Read(task_.scratch_dir(), layer_, spec_.point(), task_.solve().batches_size());
}

absl::Status HessianMaker::AddRows(const KeptRows& kept, HessianLeaf* leaf) {
  const std::string path = Path(KeptFileName(layer_, kept.batch, spec_.point()));
  const auto row_bytes = static_cast<uint64_t>(spec_.channels()) * 2;
  std::vector<uint16_t> rows;
  for (int64_t row = 0; row < kept.count; row += kHessianReadTokens) {
    OCTAVO_RETURN_IF_ERROR(CheckStop());
    const int64_t count = std::min(kHessianReadTokens, kept.count - row);
    rows.resize(static_cast<size_t>(count * spec_.channels()));
    {
      const Stopwatch watch(&read_seconds_);
      const auto bytes = std::as_writable_bytes(std::span(rows));
      // Neighbours at once, others one by one.
      const int64_t reads = kept.step == 1 ? 1 : count;
      const auto read_bytes = bytes.size() / static_cast<uint64_t>(reads);
      for (int64_t i = 0; i < reads; ++i) {
        const uint64_t first = kept.begin + static_cast<uint64_t>((row + i) * kept.step);
        OCTAVO_RETURN_IF_ERROR(
            store_.ReadAt(path, first * row_bytes,
                          bytes.subspan(static_cast<uint64_t>(i) * read_bytes, read_bytes)));
      }
    }
    const Stopwatch watch(&sum_seconds_);
    leaf->Add(rows.data(), count, spec_.channels());
  }
  return absl::OkStatus();
}

absl::StatusOr<Hessian> HessianMaker::SumOf(const std::vector<KeptRows>& rows) {
  OCTAVO_ASSIGN_OR_RETURN(HessianLeaf leaf,
                          HessianLeaf::Make(spec_.channels(), isa_, arena_, pool_));
  for (const KeptRows& kept : rows) OCTAVO_RETURN_IF_ERROR(AddRows(kept, &leaf));
  return leaf.Finish();
}

absl::StatusOr<v1::Receipt> HessianMaker::LeaveSum() {
  std::vector<KeptRows> rows;
  if (spec_.mean_rows() > 0) {
    OCTAVO_ASSIGN_OR_RETURN(const ExpertRows experts, ReadExpertRows());
    if (!experts.AnyShrinks(spec_.channels())) return v1::Receipt();
    rows = experts.OfAll(static_cast<int64_t>(spec_.mean_rows()));
  } else {
    rows = KeptOfTokens(task_);
  }
  OCTAVO_ASSIGN_OR_RETURN(const Hessian hessian, SumOf(rows));
  v1::Receipt receipt;
  OCTAVO_RETURN_IF_ERROR(LeaveHessian(task_.scratch_dir(),
                                      HessianFileName(layer_, spec_.point(), spec_.leaf()), hessian,
                                      &receipt));
  receipt.set_bytes_read(static_cast<uint64_t>(CountRows(rows) * spec_.channels()) * 2);
  receipt.set_read_seconds(read_seconds_);
  receipt.set_cast_seconds(sum_seconds_);
  return receipt;
}

absl::StatusOr<Hessian> HessianMaker::ReadLeaf(uint32_t leaf) {
  OCTAVO_RETURN_IF_ERROR(CheckStop());
  OCTAVO_ASSIGN_OR_RETURN(Hessian hessian, MakeHessian(spec_.channels(), arena_));
  const uint64_t tokens = task_.solve().batches(task_.solve().batches_size() - 1).token_end();
  const auto leaf_tokens = static_cast<uint64_t>(HessianLeafTokens(static_cast<int64_t>(tokens)));
  hessian.tokens =
      static_cast<int64_t>(std::min(tokens, (leaf + 1) * leaf_tokens) - leaf * leaf_tokens);
  const Stopwatch watch(&read_seconds_);
  OCTAVO_RETURN_IF_ERROR(ReadHessianRows(Path(HessianFileName(layer_, spec_.point(), leaf)),
                                         hessian.channels, [&](int64_t i, const float* from) {
                                           std::copy_n(from, hessian.channels - i,
                                                       hessian.Row(i) + i);
                                         }));
  return hessian;
}

absl::StatusOr<Hessian> HessianMaker::OfLeaves() {
  HessianTree tree(isa_, pool_);
  for (uint32_t leaf = 0; leaf < spec_.leaf_count(); ++leaf) {
    OCTAVO_ASSIGN_OR_RETURN(Hessian hessian, ReadLeaf(leaf));
    tree.Push(std::move(hessian));
  }
  return tree.Finish();
}

absl::StatusOr<Hessian> HessianMaker::OfExpert(const ExpertRows& rows, v1::SolveFigures* figures) {
  OCTAVO_ASSIGN_OR_RETURN(Hessian hessian, SumOf(rows.Of(spec_.expert())));
  const int64_t channels = spec_.channels();
  if (hessian.tokens >= ExpertEnoughTokens(channels)) return hessian;
  const FpEnv env;
  const int64_t mean_tokens = CountRows(rows.OfAll(ExpertEnoughTokens(channels)));
  const Shrinkage shrinkage = ShrinkageOf(channels, hessian.tokens, mean_tokens);
  const Stopwatch watch(&read_seconds_);
  OCTAVO_RETURN_IF_ERROR(ReadHessianRows(
      Path(HessianFileName(layer_, spec_.point(), 0)), channels, [&](int64_t i, const float* from) {
        ShrinkRow(shrinkage, from, channels - i, hessian.Row(i) + i);
      }));
  figures->set_shrinkage(shrinkage.share());
  figures->set_mean_tokens(static_cast<uint64_t>(mean_tokens));
  return hessian;
}

}  // namespace octavo
