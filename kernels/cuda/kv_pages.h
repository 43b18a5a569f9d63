#pragma once

// The paged cache of keys and values in a GPU's memory. A page holds 32 tokens of one layer:
//
//   [kv_heads][key, value][32 tokens][head_dim]   BF16 numbers, or FP8 codes of x / scale
//
// A sequence's pages are named by a block table: token j of the sequence is slot j % 32 of page
// table[j / 32]. Slots that were never written may hold anything.

#include <cstddef>
#include <cstdint>

namespace octavo::cuda {

inline constexpr int64_t kPageTokens = 32;

struct KvPages {
  std::byte* data = nullptr;  // 16-byte aligned
  int64_t kv_heads = 0;
  int64_t head_dim = 0;  // a multiple of 16
  bool fp8 = false;

  constexpr int64_t element_bytes() const { return fp8 ? 1 : 2; }
  constexpr int64_t head_bytes() const { return kPageTokens * head_dim * element_bytes(); }
  constexpr int64_t page_bytes() const { return kv_heads * 2 * head_bytes(); }
  // Where the 32 keys (or values) of one head begin.
  constexpr int64_t Offset(int64_t page, int64_t head, bool value) const {
    return page * page_bytes() + (head * 2 + (value ? 1 : 0)) * head_bytes();
  }
};

}  // namespace octavo::cuda
