#include "core/text/bpe_merge.h"

#include <algorithm>

namespace octavo {
namespace {

constexpr uint32_t kNoNeighbour = UINT32_MAX;
constexpr int32_t kRemoved = -1;

struct Symbol {
  int32_t id;
  uint32_t previous;
  uint32_t next;
};

struct Candidate {
  uint32_t rank;
  uint32_t position;  // of the left symbol
  int32_t joined;
};

// For a heap whose top is the lowest rank, then the leftmost position.
bool ComesLater(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

void BpeMerges::Add(int32_t left, int32_t right, int32_t joined) {
  rules_.insert_or_assign(PairKey(left, right), Rule{next_rank_++, joined});
}

const BpeMerges::Rule* BpeMerges::Find(int32_t left, int32_t right) const {
  const auto found = rules_.find(PairKey(left, right));
  return found == rules_.end() ? nullptr : &found->second;
}

void BpeMerges::Apply(std::vector<int32_t>* ids, uint64_t* steps) const {
  const auto count = static_cast<uint32_t>(ids->size());
  if (count < 2) return;
  std::vector<Symbol> symbols(count);
  for (uint32_t i = 0; i < count; ++i) {
    symbols[i] = {(*ids)[i], i == 0 ? kNoNeighbour : i - 1, i + 1 == count ? kNoNeighbour : i + 1};
  }
  std::vector<Candidate> heap;
  heap.reserve(count);
  for (uint32_t i = 0; i + 1 < count; ++i) {
    if (const Rule* rule = Find(symbols[i].id, symbols[i + 1].id)) {
      heap.push_back({rule->rank, i, rule->joined});
    }
  }
  std::make_heap(heap.begin(), heap.end(), ComesLater);
  auto offer = [&](uint32_t left) {
    if (const Rule* rule = Find(symbols[left].id, symbols[symbols[left].next].id)) {
      heap.push_back({rule->rank, left, rule->joined});
      std::push_heap(heap.begin(), heap.end(), ComesLater);
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), ComesLater);
    const Candidate top = heap.back();
    heap.pop_back();
    if (steps != nullptr) ++*steps;
    Symbol& left = symbols[top.position];
    if (left.id == kRemoved || left.next == kNoNeighbour) continue;
    Symbol& right = symbols[left.next];
    // The entry is stale when the pair at this position now makes something else.
    const Rule* rule = Find(left.id, right.id);
    if (rule == nullptr || rule->joined != top.joined) continue;
    left.id = top.joined;
    left.next = right.next;
    right.id = kRemoved;
    if (left.next != kNoNeighbour) symbols[left.next].previous = top.position;
    if (left.previous != kNoNeighbour) offer(left.previous);
    if (left.next != kNoNeighbour) offer(top.position);
  }
  ids->clear();
  for (uint32_t i = 0; i != kNoNeighbour; i = symbols[i].next) ids->push_back(symbols[i].id);
}

}  // namespace octavo
