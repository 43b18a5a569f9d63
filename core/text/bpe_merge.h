#pragma once

// The merge loop of byte-pair encoding: join the adjacent pair of lowest rank, leftmost first,
// until no pair is left that has a rule. With a heap over a linked list, n symbols take O(n log n).

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace octavo {

class BpeMerges {
 public:
  // Rules come in order of rank, best first; a pair given twice keeps the later rank. At most 2^31.
  void Reserve(size_t rules) { rules_.reserve(rules); }
  void Add(int32_t left, int32_t right, int32_t joined);

  // Replaces `ids` by the merged ids. When `steps` is not null, it is increased by the number of
  // heap entries looked at: the measure of work, at most 3 per symbol.
  void Apply(std::vector<int32_t>* ids, uint64_t* steps = nullptr) const;

 private:
  struct Rule {
    uint32_t rank;
    int32_t joined;
  };
  const Rule* Find(int32_t left, int32_t right) const;

  absl::flat_hash_map<uint64_t, Rule> rules_;
  uint32_t next_rank_ = 0;
};

}  // namespace octavo
