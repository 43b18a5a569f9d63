#pragma once

// Tree(n): the fixed binary tree over n leaves in which partial sums are merged. A node over m > 1
// leaves has the largest power of two below m on its left and the rest on its right; every subtree
// over m leaves is Tree(m) itself. Whoever holds a run of leaves can add up the maximal subtrees
// inside the run; the merge of these pieces, in tree order, gives the bits that one holder of all
// leaves would get.

#include <cstdint>
#include <span>
#include <vector>

namespace octavo {

// Half-open run of leaves.
struct LeafRun {
  int begin = 0;
  int end = 0;
  bool operator==(const LeafRun&) const = default;
};

// Leaves in the left child of a node over `count` leaves. REQUIRES count >= 2.
inline constexpr int TreeSplit(int count) {
  int left = 1;
  while (left * 2 < count) left *= 2;
  return left;
}

// `piece[into] += piece[from]`, in this order, once each.
struct MergeStep {
  int into = 0;
  int from = 0;
  bool operator==(const MergeStep&) const = default;
};

namespace tree_internal {

inline void VisitSubtrees(LeafRun node, LeafRun run, std::vector<LeafRun>* out) {
  if (node.end <= run.begin || run.end <= node.begin) return;
  if (run.begin <= node.begin && node.end <= run.end) {
    out->push_back(node);
    return;
  }
  const int middle = node.begin + TreeSplit(node.end - node.begin);
  VisitSubtrees({node.begin, middle}, run, out);
  VisitSubtrees({middle, node.end}, run, out);
}

// Returns the index of the piece that holds the node's sum after the steps.
inline int AddSteps(LeafRun node, std::span<const LeafRun> pieces, int* next,
                    std::vector<MergeStep>* steps) {
  if (pieces[*next] == node || node.end - node.begin <= 1) return (*next)++;
  const int middle = node.begin + TreeSplit(node.end - node.begin);
  const int left = AddSteps({node.begin, middle}, pieces, next, steps);
  const int right = AddSteps({middle, node.end}, pieces, next, steps);
  steps->push_back({left, right});
  return left;
}

}  // namespace tree_internal

// The maximal subtrees of Tree(count) inside `run`, ascending. They tile the run.
inline std::vector<LeafRun> MaximalSubtrees(int count, LeafRun run) {
  std::vector<LeafRun> out;
  if (count > 0 && run.begin < run.end) tree_internal::VisitSubtrees({0, count}, run, &out);
  return out;
}

// How to merge pieces, which are subtrees of Tree(count) that tile all its leaves in ascending
// order, into piece 0.
inline std::vector<MergeStep> MergeSteps(int count, std::span<const LeafRun> pieces) {
  std::vector<MergeStep> steps;
  int next = 0;
  if (count > 0) tree_internal::AddSteps({0, count}, pieces, &next, &steps);
  return steps;
}

// The same for single leaves.
inline std::vector<MergeStep> MergeSteps(int count) {
  std::vector<LeafRun> leaves;
  for (int i = 0; i < count; ++i) leaves.push_back({i, i + 1});
  return MergeSteps(count, leaves);
}

}  // namespace octavo
