#pragma once

// The pages of keys and values of one rank: `blocks` blocks of 32 tokens for every layer and every
// KV head that the rank owns, in BF16 or, under scales of their layer, as FP8 codes. Who uses which
// block is the leader's business (block tables).

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/status.h"
#include "kernels/attention.h"
#include "octavo/v1/plan.pb.h"
#include "worker/device/arena.h"
#include "worker/runner/shard_files.h"

namespace octavo {

// What a layer's stored keys and values are multiplied by; finite and > 0.
struct KvScale {
  float key = 1;
  float value = 1;
};

// Reads the scales that the plan names, by layer, 1 where it names none; nothing for a BF16 cache.
// kBadCheckpoint: a scale that is not finite and > 0.
absl::StatusOr<std::vector<KvScale>> LoadCacheScales(const v1::ServePlan& plan, ShardFiles* files);

class KvCache {
 public:
  KvCache() = default;
  // `scales`: of every layer, for a cache of FP8 codes; empty: BF16.
  static absl::StatusOr<KvCache> Create(Arena* arena, int64_t head_dim, int64_t layers,
                                        int64_t heads, int64_t blocks,
                                        std::vector<KvScale> scales) {
    KvCache cache;
    const KvLayout layout = {head_dim, scales.empty() ? WeightType::kBf16 : WeightType::kFp8};
    cache.layout_ = layout;
    cache.scales_ = std::move(scales);
    cache.scales_.resize(static_cast<size_t>(layers));
    cache.heads_ = heads;
    cache.blocks_ = blocks;
    OCTAVO_ASSIGN_OR_RETURN(
        cache.pages_,
        arena->Allocate(static_cast<uint64_t>(layers * blocks * heads * layout.bytes()),
                        "KV cache"));
    return cache;
  }

  const KvLayout& layout() const { return layout_; }
  bool is_fp8() const { return layout_.type == WeightType::kFp8; }
  const KvScale& scale(int64_t layer) const { return scales_[static_cast<size_t>(layer)]; }
  int64_t heads() const { return heads_; }
  int64_t blocks() const { return blocks_; }
  // One head's part of a block (kernels/attention.h). `head` counts within this rank.
  std::byte* Part(int64_t layer, int64_t block, int64_t head) const {
    return pages_.data() + ((layer * blocks_ + block) * heads_ + head) * layout_.bytes();
  }

 private:
  KvLayout layout_;
  std::vector<KvScale> scales_;  // by layer
  int64_t heads_ = 0;
  int64_t blocks_ = 0;
  Buffer pages_;
};

}  // namespace octavo
