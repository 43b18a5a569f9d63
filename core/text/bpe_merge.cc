#include "core/text/bpe_merge.h"

#include <algorithm>

namespace octavo {
namespace {

constexpr uint32_t kNoNeighbour = UINT32_MAX;
constexpr int32_t kRemoved = -1;

// Shorter runs are merged as they are: cutting them gains nothing.
constexpr size_t kCutMin = 32;

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

struct BpeMerges::Scratch {
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
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
  std::vector<Candidate>& heap = scratch->heap;
  heap.clear();
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
  uint64_t steps = 0;
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), ComesLater);
    const Candidate top = heap.back();
    heap.pop_back();
    ++steps;
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
  for (uint32_t i = 0; i != kNoNeighbour; i = symbols[i].next) out->push_back(symbols[i].id);
  return steps;
}

}  // namespace octavo
