#pragma once

// Units of K: where row-parallel products (attention output, MLP down) are cut. A unit is summed
// from zero on its own, units are merged over Tree (tree.h), and a rank owns whole units: that is
// why bits do not depend on the number of ranks.

#include <cstdint>

#include "core/tensor/bare/tree.h"

namespace octavo {

inline constexpr int64_t kSumBlock = 32;     // the 32-block rule
inline constexpr int64_t kScaleBlock = 128;  // block-scaled weights and grouped activations

[[gnu::always_inline]] inline constexpr int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
[[gnu::always_inline]] inline constexpr int64_t RoundUp(int64_t a, int64_t b) {
  return CeilDiv(a, b) * b;
}

// Tokens of one leaf of a Hessian where a layer sees `tokens` in all: at most 16 leaves, the last
// may be short.
inline constexpr int64_t kHessianLeavesMax = 16;
[[gnu::always_inline]] inline constexpr int64_t HessianLeafTokens(int64_t tokens) {
  const int64_t least = 1024;
  const int64_t parts = CeilDiv(tokens, least * kHessianLeavesMax);
  return least * (parts > 1 ? parts : 1);
}

// An expert is short of tokens below 4 * channels: its Hessian is shrunk towards the mean of its
// layer's experts, which at most as many rows make. Below channels / 4 its Hessian says too little
// even for that, and its weights are rounded to nearest.
[[gnu::always_inline]] inline constexpr int64_t ExpertEnoughTokens(int64_t channels) {
  return 4 * channels;
}
[[gnu::always_inline]] inline constexpr int64_t ExpertLeastTokens(int64_t channels) {
  return channels / 4;
}

// Tokens that are measured together where sensitivity is: a leaf of its own, the last may be short.
inline constexpr int64_t kSenseTokens = 1024;

// How one product's K is cut: `size` elements per unit, the last may be short.
struct UnitCut {
  int64_t size = 0;
  int count = 0;
  bool operator==(const UnitCut&) const = default;
};

// MLP and expert down projections over `k` elements: at most 8 units.
[[gnu::always_inline]] inline constexpr UnitCut MlpUnits(int64_t k, bool block_scaled) {
  const int64_t step = block_scaled ? kScaleBlock : kSumBlock;
  const int64_t size = step * CeilDiv(k, step * 8);
  return {size, static_cast<int>(CeilDiv(k, size))};
}

// KV groups in one unit of the attention output; `group_size` = elements of K of one KV group
// (query heads per KV head x head dimension). Block-scaled: the shortest run of whole groups that
// is whole 128-blocks.
[[gnu::always_inline]] inline constexpr int64_t AttentionGroupsPerUnit(int64_t group_size,
                                                                       bool block_scaled) {
  if (!block_scaled) return 1;
  int64_t groups = 1;
  while (groups * group_size % kScaleBlock != 0) ++groups;
  return groups;
}

// The attention output over `kv_heads` groups.
[[gnu::always_inline]] inline constexpr UnitCut AttentionUnits(int64_t kv_heads, int64_t group_size,
                                                               bool block_scaled) {
  const int64_t groups = AttentionGroupsPerUnit(group_size, block_scaled);
  return {groups * group_size, static_cast<int>(CeilDiv(kv_heads, groups))};
}

// The units (or rows, or groups) of rank `rank` when `count` are dealt out in ascending runs that
// differ by at most one. Empty runs appear only where ranks > count.
[[gnu::always_inline]] inline constexpr LeafRun RunOfRank(int64_t count, int ranks, int rank) {
  return {static_cast<int>(count * rank / ranks), static_cast<int>(count * (rank + 1) / ranks)};
}

}  // namespace octavo
