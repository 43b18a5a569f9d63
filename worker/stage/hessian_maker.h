#pragma once

// The Hessians of one task: summed over what UNIT_CALIBRATE kept, or put together from what
// UNIT_HESSIAN left. Private to worker/stage.

#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/store/local_store.h"
#include "kernels/isa.h"
#include "octavo/v1/task.pb.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/quant/solve/hessian.h"
#include "worker/stage/expert_rows.h"

namespace octavo {

// One caller at a time. Errors of all: kInputMissing, kIo, kCorrupted, kOutOfMemory, kCancelled.
class HessianMaker {
 public:
  // REQUIRES: IsSupported(isa); all outlive the maker.
  HessianMaker(const v1::Task& task, Isa isa, Arena* arena, ThreadPool* pool, std::stop_token stop);

  // UNIT_HESSIAN: a leaf over the task's range of tokens, or the sum over rows of all experts that
  // those with few tokens are shrunk towards (HessianSpec.mean_rows); left in the scratch folder.
  // Where no expert needs that sum nothing is left.
  absl::StatusOr<v1::Receipt> LeaveSum();

  // UNIT_SOLVE of a dense layer.
  absl::StatusOr<Hessian> OfLeaves();
  // UNIT_SOLVE of an expert, of what it saw. Where that is little (ExpertEnoughTokens) the Hessian
  // is shrunk (shrink.h), and `figures` say how far. REQUIRES: ExpertLeastTokens at least.
  absl::StatusOr<Hessian> OfExpert(const ExpertRows& rows, v1::SolveFigures* figures);
  absl::StatusOr<ExpertRows> ReadExpertRows() const;

  // Seconds spent so far on reading, shrinking included.
  double read_seconds() const { return read_seconds_; }

 private:
  std::string Path(const std::string& name) const;
  absl::Status CheckStop() const;
  absl::Status AddRows(const KeptRows& kept, HessianLeaf* leaf);
  absl::StatusOr<Hessian> SumOf(const std::vector<KeptRows>& rows);
  absl::StatusOr<Hessian> ReadLeaf(uint32_t leaf);

  const v1::Task& task_;
  const uint32_t layer_;
  const v1::HessianSpec& spec_;
  const Isa isa_;
  Arena* arena_;
  ThreadPool* pool_;
  const std::stop_token stop_;
  LocalStore store_;
  double read_seconds_ = 0;
  double sum_seconds_ = 0;
};

}  // namespace octavo
