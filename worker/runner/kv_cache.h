#pragma once

// The pages of keys and values of one rank: `blocks` blocks of 32 tokens for every layer and every
// KV head that the rank owns. Who uses which block is the leader's business (block tables).

#include <cstdint>

#include "absl/status/statusor.h"
#include "core/base/status.h"
#include "kernels/attention.h"
#include "worker/device/arena.h"

namespace octavo {

class KvCache {
 public:
  KvCache() = default;
  static absl::StatusOr<KvCache> Create(Arena* arena, const KvLayout& layout, int64_t layers,
                                        int64_t heads, int64_t blocks) {
    KvCache cache;
    cache.layout_ = layout;
    cache.heads_ = heads;
    cache.blocks_ = blocks;
    OCTAVO_ASSIGN_OR_RETURN(
        cache.pages_,
        arena->Allocate(static_cast<uint64_t>(layers * blocks * heads * layout.bytes()),
                        "KV cache"));
    return cache;
  }

  const KvLayout& layout() const { return layout_; }
  int64_t heads() const { return heads_; }
  int64_t blocks() const { return blocks_; }
  // One head's part of a block (kernels/attention.h). `head` counts within this rank.
  std::byte* Part(int64_t layer, int64_t block, int64_t head) const {
    return pages_.data() + ((layer * blocks_ + block) * heads_ + head) * layout_.bytes();
  }

 private:
  KvLayout layout_;
  int64_t heads_ = 0;
  int64_t blocks_ = 0;
  Buffer pages_;
};

}  // namespace octavo
