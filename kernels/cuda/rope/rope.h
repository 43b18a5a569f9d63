#pragma once

// What lies between the projection of queries, keys and values and attention, on a GPU: clip, norm
// of heads, rotation, and keys and values into the paged cache, for tokens of any sequences in one
// launch. In the order of the CPU's runner (worker/runner/attention.cc), with the formulas and the
// bits of kernels/activation.h, norm.h, rope.h and quantize_activation.h:
//
//   query  BF16 [tokens][kv_heads][queries_per_head][head_dim]: clipped, normed, rotated, in place
//   key    BF16 [tokens][kv_heads][head_dim]: clipped, normed, rotated, into the cache
//   value  likewise: clipped, into the cache
//
// A BF16 cache gets these bits; one of FP8 codes gets Fp8FromF32(x / scale), by a true division.
// Codes have no NaN that attention would see: where a head's key (as rotated) or value is not
// finite and the cache is FP8, the queries that look at this head become NaN (0x7fc0).
//
// A block takes a token's KV head with its queries; its warps share out the heads. Tokens do not
// depend on each other. Any other NaN stays some NaN.

#include <cstdint>

#include "kernels/cuda/kv_pages.h"
#include "kernels/cuda/simt/grid.h"

namespace octavo::cuda {

// REQUIRES: pointers aligned to 4 bytes, even strides, pages.head_dim a multiple of 16; positions
// that the tables have, slots that the pages have and no two tokens share.
struct RotateAndStore {
  uint16_t* query = nullptr;
  const uint16_t* key = nullptr;  // keys and values are not changed where they are read
  const uint16_t* value = nullptr;
  int64_t query_stride = 0;  // elements from one token to the next: one product may write all three
  int64_t key_stride = 0;
  int64_t value_stride = 0;
  int64_t tokens = 0;
  int64_t queries_per_head = 0;  // of one KV head

  const int32_t* positions = nullptr;  // [tokens]: rows of the tables
  // [tokens]: page * 32 + slot; below 0, the token is not stored (a launch that is padded).
  const int32_t* slots = nullptr;
  const uint16_t* cos = nullptr;  // [positions][head_dim / 2] BF16, of RopeRow
  const uint16_t* sin = nullptr;

  float clip = 0;  // of query, key and value; 0: none
  // RMSNorm's weights over each head, [head_dim] BF16; null: none.
  const uint16_t* query_norm = nullptr;
  const uint16_t* key_norm = nullptr;
  float eps = 0;

  KvPages pages;
  float key_scale = 1;  // FP8 only
  float value_scale = 1;
};
void Launch(const RotateAndStore& call, simt::Stream stream);

}  // namespace octavo::cuda
