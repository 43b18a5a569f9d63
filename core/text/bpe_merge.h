#pragma once

// The merge loop of byte-pair encoding: join the adjacent pair of lowest rank, leftmost first,
// until no pair is left that has a rule. Candidates of one rank wait in a list of their own, so
// that n symbols take O(n log n) only where merging finds them out of order; where it is known
// which symbols can never come together inside a token, long runs are cut there first. Either way,
// n symbols of natural text take O(n).

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"

namespace octavo {

class BpeMerges {
 public:
  // A pair given twice keeps the later rule. The smaller rank goes first; rules of equal rank go
  // by position alone.
  void Reserve(size_t rules) { rules_.reserve(rules); }
  void Add(int32_t left, int32_t right, int32_t joined, uint32_t rank);
  size_t size() const { return rules_.size(); }
  // Whether some rule joins the token `id` to another.
  bool Merges(int32_t id) const { return parts_.contains(id); }

  // Tells which symbols every token begins and ends with, by id, -1 for tokens that are never made
  // or merged. REQUIRES: all rules are there, and whatever the symbols, merging makes a token only
  // out of runs that begin and end so.
  void SetEnds(std::span<const int32_t> first, std::span<const int32_t> last);

  // Replaces `ids` by the merged ids. When `steps` is not null, it is increased by the number of
  // candidates looked at: the measure of work, at most 3 per symbol.
  void Apply(std::vector<int32_t>* ids, uint64_t* steps = nullptr) const;

 private:
  struct Rule {
    uint32_t rank;
    int32_t joined;
  };
  struct Scratch;
  const Rule* Find(int32_t left, int32_t right) const;
  // Appends the merged ids of one run. Returns the candidates looked at.
  uint64_t Merge(std::span<const int32_t> ids, Scratch* scratch, std::vector<int32_t>* out) const;
  template <typename Queue, typename Symbols>
  uint64_t MergeWith(Queue* queue, Symbols& symbols) const;

  absl::flat_hash_map<uint64_t, Rule> rules_;
  absl::flat_hash_set<int32_t> parts_;       // the left and right sides of all rules
  absl::flat_hash_set<uint64_t> junctions_;  // symbols that stand side by side inside some token
  bool has_ends_ = false;
};

}  // namespace octavo
