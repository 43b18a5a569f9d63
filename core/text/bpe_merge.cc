#include "core/text/bpe_merge.h"

#include <algorithm>
#include <map>
#include <optional>

namespace octavo {
namespace {

constexpr uint32_t kNoNeighbour = UINT32_MAX;
constexpr int32_t kRemoved = -1;

// Shorter runs are merged as they are: cutting them gains nothing.
constexpr size_t kCutMin = 32;
// Shorter runs fit a heap that stays in the nearest cache.
constexpr size_t kRanksMin = 256;

struct Symbol {
  int32_t id;
  uint32_t previous;
  uint32_t next;
};

struct Candidate {
  uint32_t rank;
  uint32_t position;  // of the left symbol
};

// For a heap whose top is the lowest rank, then the leftmost position.
bool ComesLater(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

// Candidates in order, all in one heap.
class CandidateHeap {
 public:
  void Push(Candidate candidate) {
    heap_.push_back(candidate);
    std::push_heap(heap_.begin(), heap_.end(), ComesLater);
  }
  std::optional<Candidate> Pop() {
    if (heap_.empty()) return std::nullopt;
    std::pop_heap(heap_.begin(), heap_.end(), ComesLater);
    const Candidate top = heap_.back();
    heap_.pop_back();
    return top;
  }
  const Candidate* Top() const { return heap_.empty() ? nullptr : &heap_.front(); }

 private:
  std::vector<Candidate> heap_;
};

// The same for long runs: one list of positions per rank. A merge makes, in a vocabulary that was
// trained, only pairs of higher ranks, and those of one rank mostly from left to right: then
// every list is written and read once, in order, where a heap of n entries would miss the cache
// at most of its levels.
class CandidateRanks {
 public:
  void Push(Candidate candidate) {
    if (begun_ && candidate.rank <= rank_) {
      urgent_.Push(candidate);
    } else {
      later_[candidate.rank].push_back(candidate.position);
    }
  }
  std::optional<Candidate> Pop() {
    while (true) {
      const Candidate* const urgent = urgent_.Top();
      if (next_ < positions_.size()) {
        const Candidate candidate{rank_, positions_[next_]};
        if (urgent != nullptr && ComesLater(candidate, *urgent)) return urgent_.Pop();
        ++next_;
        return candidate;
      }
      if (urgent != nullptr) return urgent_.Pop();
      if (later_.empty()) return std::nullopt;
      auto lowest = later_.extract(later_.begin());
      begun_ = true;
      rank_ = lowest.key();
      positions_ = std::move(lowest.mapped());
      next_ = 0;
      if (!std::ranges::is_sorted(positions_)) std::ranges::sort(positions_);
    }
  }

 private:
  std::map<uint32_t, std::vector<uint32_t>> later_;  // ranks above rank_
  bool begun_ = false;
  uint32_t rank_ = 0;
  std::vector<uint32_t> positions_;  // of rank_, ascending
  size_t next_ = 0;                  // into positions_
  CandidateHeap urgent_;             // of rank_ or lower, found while merging at rank_
};

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

struct BpeMerges::Scratch {
  std::vector<Symbol> symbols;
  CandidateHeap heap;
};

void BpeMerges::Add(int32_t left, int32_t right, int32_t joined, uint32_t rank) {
  rules_.insert_or_assign(PairKey(left, right), Rule{rank, joined});
  parts_.insert(left);
  parts_.insert(right);
}

void BpeMerges::SetEnds(std::span<const int32_t> first, std::span<const int32_t> last) {
  has_ends_ = true;
  junctions_.clear();
  for (const auto& [pair, rule] : rules_) {
    const int32_t before = last[pair >> 32];
    const int32_t after = first[pair & UINT32_MAX];
    if (before >= 0 && after >= 0) junctions_.insert(PairKey(before, after));
  }
}

const BpeMerges::Rule* BpeMerges::Find(int32_t left, int32_t right) const {
  const auto found = rules_.find(PairKey(left, right));
  return found == rules_.end() ? nullptr : &found->second;
}

void BpeMerges::Apply(std::vector<int32_t>* ids, uint64_t* steps) const {
  if (ids->size() < 2) return;
  const std::span<const int32_t> all(*ids);
  Scratch scratch;
  std::vector<int32_t> out;
  out.reserve(all.size());
  uint64_t work = 0;
  size_t done = 0;
  if (has_ends_ && all.size() >= kCutMin) {
    for (size_t i = 1; i < all.size(); ++i) {
      if (junctions_.contains(PairKey(all[i - 1], all[i]))) continue;
      work += Merge(all.subspan(done, i - done), &scratch, &out);
      done = i;
    }
  }
  work += Merge(all.subspan(done), &scratch, &out);
  if (steps != nullptr) *steps += work;
  *ids = std::move(out);
}

uint64_t BpeMerges::Merge(std::span<const int32_t> ids, Scratch* scratch,
                          std::vector<int32_t>* out) const {
  if (ids.size() == 1) {
    out->push_back(ids[0]);
    return 0;
  }
  const auto count = static_cast<uint32_t>(ids.size());
  std::vector<Symbol>& symbols = scratch->symbols;
  symbols.resize(count);
  for (uint32_t i = 0; i < count; ++i) {
    symbols[i] = {ids[i], i == 0 ? kNoNeighbour : i - 1, i + 1 == count ? kNoNeighbour : i + 1};
  }
  uint64_t steps = 0;
  if (count < kRanksMin) {
    steps = MergeWith(&scratch->heap, symbols);
  } else {
    CandidateRanks ranks;
    steps = MergeWith(&ranks, symbols);
  }
  for (uint32_t i = 0; i != kNoNeighbour; i = symbols[i].next) out->push_back(symbols[i].id);
  return steps;
}

template <typename Queue, typename Symbols>
uint64_t BpeMerges::MergeWith(Queue* queue, Symbols& symbols) const {
  auto offer = [&](uint32_t left) {
    if (const Rule* rule = Find(symbols[left].id, symbols[symbols[left].next].id)) {
      queue->Push({rule->rank, left});
    }
  };
  for (uint32_t i = 0; i + 1 < symbols.size(); ++i) offer(i);
  uint64_t steps = 0;
  while (const auto candidate = queue->Pop()) {
    ++steps;
    Symbol& left = symbols[candidate->position];
    if (left.id == kRemoved || left.next == kNoNeighbour) continue;
    Symbol& right = symbols[left.next];
    // The candidate is stale when the pair at this position has another rank by now.
    const Rule* rule = Find(left.id, right.id);
    if (rule == nullptr || rule->rank != candidate->rank) continue;
    left.id = rule->joined;
    left.next = right.next;
    right.id = kRemoved;
    if (left.next != kNoNeighbour) symbols[left.next].previous = candidate->position;
    if (left.previous != kNoNeighbour) offer(left.previous);
    if (left.next != kNoNeighbour) offer(candidate->position);
  }
  return steps;
}

}  // namespace octavo
