#pragma once

// Products whose weights stay on disk: a matrix is read a run of outputs at a time, used for all
// rows, and forgotten, while the next run is fetched. Each output's sum is the same as with the
// whole matrix in memory.

#include <cstdint>
#include <span>
#include <stop_token>
#include <utility>

#include "absl/status/status.h"
#include "kernels/matmul.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"
#include "worker/runner/linear.h"
#include "worker/runner/shard_files.h"
#include "worker/runner/workspace.h"

namespace octavo {

class WeightStream {
 public:
  // At most `bytes` of a matrix (16 outputs at least) lie in memory at a time. `files` may serve
  // several streams; a stream has one caller at a time.
  WeightStream(ShardFiles* files, ThreadPool* pool, Arena* arena, uint64_t bytes,
               std::stop_token stop)
      : files_(files), pool_(pool), arena_(arena), bytes_(bytes), stop_(std::move(stop)) {}

  // RunLinears for layers loaded with Residency::kStreamed, one after the other. REQUIRES: outputs
  // are rows, not pieces for other ranks. Errors as the loader's; kCancelled when stopped.
  absl::Status Run(const MatmulOps& ops, std::span<const LinearJob> jobs, Workspace* workspace);

 private:
  // Outputs [begin, end) of one job.
  struct Part {
    const LinearJob* job = nullptr;
    int64_t begin = 0, end = 0;
  };
  absl::Status RunPart(const MatmulOps& ops, const Part& part, const Part* next,
                       Workspace* workspace);
  void Fetch(const Part& part);

  ShardFiles* files_;
  ThreadPool* pool_;
  Arena* arena_;
  const uint64_t bytes_;
  std::stop_token stop_;
  GrowingBuffer tiles_;
};

}  // namespace octavo
