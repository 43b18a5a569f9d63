#pragma once

// Weights that are not quantized on disk and are in memory: a checkpoint's output head, where it is
// asked for (ServeOptions.head_type). Codes and scales are bit for bit those that `octavo quantize`
// writes for the same rows by a rule with this scheme (worker/quant, absmax).

#include <cstddef>

#include "absl/status/status.h"
#include "kernels/isa.h"
#include "octavo/v1/plan.pb.h"
#include "worker/device/thread_pool.h"
#include "worker/runner/linear.h"
#include "worker/runner/shard_files.h"

namespace octavo {

// Fills `tiles`, zeroed, and out->channel_scales with the rows of `weight`, which out->packed
// already fits: quantized by its scheme, one scale for each row. REQUIRES
// weight.quantized_at_load(), whole rows, FP8. kNonFinite names file, tensor and offset; errors of
// ShardFiles.
absl::Status QuantizeAtLoad(ShardFiles* files, const v1::RankTensor& weight, Isa isa,
                            ThreadPool* pool, std::byte* tiles, Linear* out);

}  // namespace octavo
