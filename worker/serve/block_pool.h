#pragma once

// The KV blocks of a group: which are free, which belong to which sequence. Blocks hold
// kKvBlockTokens tokens and have the same ids on every rank.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace octavo {

class BlockPool {
 public:
  explicit BlockPool(uint32_t block_count);

  static uint32_t BlocksFor(size_t tokens);

  // Extends `table` until it covers `tokens` tokens. All or nothing; false when too few are free.
  bool Grow(std::vector<uint32_t>& table, size_t tokens);

  // Gives the blocks of `table` back and empties it.
  void Free(std::vector<uint32_t>& table);

  uint32_t block_count() const { return block_count_; }
  uint32_t free_count() const { return static_cast<uint32_t>(free_.size()); }

 private:
  uint32_t block_count_;
  std::vector<uint32_t> free_;  // a stack
};

}  // namespace octavo
