#pragma once

// The KV blocks of a group: which are free, which belong to which sequences. Blocks hold
// kKvBlockTokens tokens and have the same ids on every rank.
//
// A full block can be kept: when nobody uses it any more it stays as it is until its place is
// needed, and whoever starts with the same tokens takes it over, several at once. Kept blocks form
// a chain: each is found by the one before it and its own tokens, which are compared, so that no
// two prompts are ever taken for one another. The one that was given back first goes first.

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/base/limits.h"

namespace octavo {

class BlockPool {
 public:
  // A kept block with all before it. Never used again for another.
  using Prefix = uint64_t;
  static constexpr Prefix kNoPrefix = 0;  // what the first block of a sequence comes after

  explicit BlockPool(uint32_t block_count);

  static uint32_t BlocksFor(size_t tokens);

  // Extends `table` until it covers `tokens` tokens. All or nothing; false when too few are free.
  bool Grow(std::vector<uint32_t>& table, size_t tokens);

  // Gives the blocks of `table` back, the last first, and empties it.
  void Free(std::vector<uint32_t>& table);

  // Appends the kept block of `tokens` after `prefix` to `table` and moves `prefix` on to it. False
  // when there is none. REQUIRES: kKvBlockTokens tokens; so does Keep.
  bool Reuse(Prefix& prefix, std::span<const int32_t> tokens, std::vector<uint32_t>& table);

  // `block`, which is in use, holds `tokens` after `prefix` and will not be written any more. Moves
  // `prefix` on to it, or to the one that already holds the same.
  void Keep(Prefix& prefix, std::span<const int32_t> tokens, uint32_t block);

  uint32_t block_count() const { return static_cast<uint32_t>(blocks_.size()); }
  // Nobody uses them, kept or not.
  uint32_t free_count() const { return static_cast<uint32_t>(empty_.size() + idle_.size()); }
  // Those of them that are kept.
  uint32_t cached_count() const { return static_cast<uint32_t>(idle_.size()); }

 private:
  struct Key {
    Prefix before = kNoPrefix;
    std::array<int32_t, kKvBlockTokens> tokens;
    bool operator==(const Key&) const = default;
    template <typename H>
    friend H AbslHashValue(H hash, const Key& key) {
      return H::combine(std::move(hash), key.before, key.tokens);
    }
  };
  struct Block {
    uint32_t users = 0;
    Prefix prefix = kNoPrefix;  // of a kept block
    Key key = {};
    std::list<uint32_t>::iterator idle = {};  // of a kept block without users
  };
  struct Kept {
    uint32_t block;
    Prefix prefix;
  };

  static Key KeyOf(Prefix before, std::span<const int32_t> tokens);
  uint32_t TakeFree();

  std::vector<Block> blocks_;
  std::vector<uint32_t> empty_;  // a stack
  std::list<uint32_t> idle_;     // kept blocks without users, the oldest first
  absl::flat_hash_map<Key, Kept> kept_;
  Prefix last_prefix_ = kNoPrefix;
};

}  // namespace octavo
