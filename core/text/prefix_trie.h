#pragma once

// Strings to look for at a place of a text, the longest first.

#include <bitset>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace octavo {

class PrefixTrie {
 public:
  // Of equal strings the first stays. An empty one never matches. REQUIRES: value >= 0.
  void Add(std::string_view text, int32_t value);

  struct Match {
    int32_t value = -1;  // -1: none
    size_t size = 0;     // in bytes
  };
  // The longest string that `rest` starts with. REQUIRES: !rest.empty().
  Match LongestAt(std::string_view rest) const;

 private:
  absl::flat_hash_map<uint32_t, uint32_t> children_;  // node << 8 | byte -> node
  std::vector<int32_t> value_at_{-1};                 // per node
  std::bitset<256> first_;
};

}  // namespace octavo
