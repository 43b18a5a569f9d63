#pragma once

// Weights on their way from a checkpoint's rows into the tiles of the kernels, or into rows.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/status.h"
#include "octavo/v1/plan.pb.h"
#include "worker/device/thread_pool.h"
#include "worker/runner/linear.h"
#include "worker/runner/read_tensor.h"
#include "worker/runner/shard_files.h"

namespace octavo {

// Calls body(row within the slice, its bytes) for all rows; 16 neighbours come on one thread.
absl::Status ForRows(const SliceReader& reader, ThreadPool* pool,
                     const std::function<void(int64_t row, std::span<const std::byte>)>& body);

// The bounds of a weight's slice as outputs by inputs, also where it is stored transposed.
SliceBounds ChannelBounds(const v1::RankTensor& weight);

// Fills `out`, [outputs][inputs] elements, with the slice of `weight`, also where it is stored
// transposed. Errors as SliceReader.
absl::Status ReadWeight(ShardFiles* files, const v1::RankTensor& weight, ThreadPool* pool,
                        std::byte* out);

// Puts one output's row of elements, out->packed.type each, into `tiles`; REQUIRES that it is not
// transposed. INT8: its sum too.
void PackRow(int64_t row, std::span<const std::byte> bytes, std::byte* tiles, Linear* out);

// Fills `tiles`, zeroed, and the channel sums of INT8 with the slice of `weight`, which out->packed
// and the cut of K already fit. Transposed weights are BF16 or FP8 (core/plan/unfuse.h lets nothing
// else through). Errors as SliceReader.
absl::Status PackWeight(ShardFiles* files, const v1::RankTensor& weight, ThreadPool* pool,
                        std::byte* tiles, Linear* out);

}  // namespace octavo
