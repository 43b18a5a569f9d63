#pragma once

// Grouped-query attention over a paged cache of keys and values, exactly as docs/numerics.md
// section 6 says. For one query over keys j = 0..t:
//
//   s_j = ((32-block rule of q and k_j) * scale) * key_scale    scale = F32(1 / sqrt(head_dim))
//   m = max s_j;  p_j = Exp(s_j - m);  l = lane sum of p_j by j
//   o = ((sum of BF16(p_j) v_j by the 32-block rule over keys) / l) * value_scale, rounded to BF16
//
// so that the result depends on nothing but q, the cache's content and t. Both scales are 1 for a
// BF16 cache; of an FP8 cache, k_j and v_j are the numbers that its codes stand for.
//
// Cache: blocks of 32 tokens. One KV head's part of a block is a run of BF16 or FP8 tiles
// (matmul.h): keys as 2 groups of 16 tokens ("channels") by head_dim; values as groups of 16 of
// head_dim ("channels") by 32 tokens. Dimensions that do not exist are zero. Slots that were never
// written must hold finite numbers (a block is cleared when its first token is stored).

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/matmul.h"
#include "kernels/table.h"

namespace octavo {

inline constexpr int64_t kKeyBlock = 32;

// Sizes of one KV head's part of a block.
struct KvLayout {
  int64_t head_dim = 0;
  WeightType type = WeightType::kBf16;  // or kFp8

  [[gnu::always_inline]] constexpr int64_t depth_blocks() const { return (head_dim + 31) / 32; }
  [[gnu::always_inline]] constexpr int64_t value_groups() const { return (head_dim + 15) / 16; }
  [[gnu::always_inline]] constexpr int64_t key_bytes() const {
    return depth_blocks() * 2 * TileBytes(type);
  }
  [[gnu::always_inline]] constexpr int64_t bytes() const {
    return key_bytes() + value_groups() * TileBytes(type);
  }
};

// Stores one token's key and value ([head_dim] each, BF16 numbers or FP8 codes as layout.type says)
// in slot `slot` (0..31) of a head's part. Slot 0 clears the part first. Codes are fp8(x / scale)
// (quantize_activation.h), never NaN.
void StoreKeyValue(const KvLayout& layout, std::byte* head_part, int64_t slot, const void* key,
                   const void* value);

// Queries that share one KV head and one block table.
struct AttentionCall {
  KvLayout layout;
  float scale = 0;
  float key_scale = 1;
  float value_scale = 1;
  int64_t rows = 0;
  const float* queries = nullptr;            // [rows][32 * depth_blocks], F32 of BF16, zero padded
  const int64_t* last_keys = nullptr;        // [rows]: t, so that keys 0..t are seen
  const std::byte* const* blocks = nullptr;  // this head's part of key block 0, 1, ...
  int64_t block_count = 0;                   // covers the largest t
  float* scores = nullptr;                   // scratch, [rows][32 * block_count], 64-byte aligned
  float* sums = nullptr;                     // scratch, [rows][16 * value_groups], 64-byte aligned
  uint16_t* const* out = nullptr;            // [rows]: head_dim BF16 numbers each
};

struct AttentionOps {
  void (*attend)(const AttentionCall& call);
};

const AttentionOps& AttentionOpsFor(Isa isa);
std::span<const KernelRow> AttentionKernelRows();

}  // namespace octavo
