#pragma once

// Grouped-query attention over the paged cache, for prompts and single tokens alike. For a query
// at position t and one head (kernels/attention.h says the same for the CPU):
//
//   s_j = ((q . k_j) * scale) * key_scale      j = 0..t; both scales F32
//   o   = (sum of p_j v_j / sum of p_j) * value_scale, rounded to BF16
//
// Order of sums, the same for every query whatever else is in the launch:
//   keys come in tiles of 64 and splits of 512, both at absolute multiples;
//   inside a split an online softmax goes over the tiles: m = the maximum so far, P_j =
//   BF16(Exp(s_j
//   - m)) times v_j on tensor cores, sums so far times Exp(m before - m); the denominator adds the
//   F32 Exp(s_j - m), four lanes of 16 keys each a tile, the lanes in the end 1 and then 2 apart;
//   splits are merged in ascending order: both sides times Exp(its m - the larger m), then added.
// So a query's bits depend on q, t and what the cache holds up to t, and on nothing else: not on
// chunks, pages, the batch, or whether splits are computed by one block or by several.
//
// Everything pointed at is in the GPU's memory.

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/simt/grid.h"

namespace octavo::cuda {

inline constexpr int kAttentionTile = 64;      // keys
inline constexpr int kAttentionSplit = 512;    // keys
inline constexpr int kAttentionRows = 64;      // queries times heads of a group, in one block
inline constexpr int kAttentionHeadMax = 128;  // largest head_dim

// Tokens of one sequence: `count` of them from row `first` of the queries, at positions `position`
// and up. Keys and values of all of them are in the cache.
struct AttentionSpan {
  int32_t first = 0;
  int32_t count = 0;
  int32_t position = 0;
};

// What one block does: rows row_begin.. of a span (row r is token r / group, head r % group), over
// splits [split_begin, split_end). `partial` < 0: writes the result; else one split, whose sums go
// to that slot of the scratch memory.
struct AttentionItem {
  int32_t span = 0;
  int32_t row_begin = 0;
  int32_t split_begin = 0;
  int32_t split_end = 0;
  int32_t partial = -1;
};

// Rows whose splits lie in slots partial .. partial + splits - 1.
struct AttentionMerge {
  int32_t span = 0;
  int32_t row_begin = 0;
  int32_t splits = 0;
  int32_t partial = 0;
};

// A launch planned: plain data for the caller to copy to the GPU.
struct AttentionPlan {
  std::vector<AttentionItem> items;
  std::vector<AttentionMerge> merges;
  int64_t slots = 0;  // of scratch memory, each AttentionSlotFloats
};

// `group` query heads share a KV head. Splits are computed by blocks of their own where otherwise
// fewer than `blocks_wanted` blocks (times kv_heads) would work.
AttentionPlan PlanAttention(std::span<const AttentionSpan> spans, int64_t group, int64_t kv_heads,
                            int64_t blocks_wanted);

// F32 numbers of one slot, for all KV heads: sums, then maxima and denominators.
inline constexpr int64_t AttentionSlotFloats(int64_t kv_heads) {
  return kv_heads * kAttentionRows * (kAttentionHeadMax + 2);
}

struct AttentionCall {
  KvPages pages;
  int64_t group = 1;                  // query heads of a KV head
  const uint16_t* queries = nullptr;  // [tokens][kv_heads * group][head_dim] BF16, 4-byte aligned
  const AttentionSpan* spans = nullptr;
  const int32_t* tables = nullptr;  // [spans][table_stride]: pages of each span's sequence
  int64_t table_stride = 0;
  const AttentionItem* items = nullptr;
  int32_t item_count = 0;
  const AttentionMerge* merges = nullptr;
  int32_t merge_count = 0;
  float scale = 1;
  float key_scale = 1;
  float value_scale = 1;
  float* scratch = nullptr;
  uint16_t* out = nullptr;  // [tokens][kv_heads * group][head_dim] BF16
};

// REQUIRES head_dim a multiple of 16, at most kAttentionHeadMax.
void Launch(const AttentionCall& call, simt::Stream stream);

}  // namespace octavo::cuda
