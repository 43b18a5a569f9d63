#pragma once

// The lane sum: the one order in which norms, softmax denominators and error figures are summed.
// Sixteen virtual lanes; lane i takes the elements j with j mod 16 == i in ascending order; then
// the lanes are folded by 8, 4, 2, 1. Every instruction set does exactly this, so the bits agree.

#include <cstddef>

namespace octavo {

inline constexpr size_t kLanes = 16;

// Folds 16 lanes: lane i += lane i+8, then i+4, i+2, i+1. Overwrites the lanes.
template <typename T>
[[gnu::always_inline]] inline constexpr T FoldLanes(T* lanes) {
  for (size_t width = kLanes / 2; width > 0; width /= 2) {
    for (size_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// A lane sum in the making. T is float or double.
template <typename T>
struct LaneSum {
  T lanes[kLanes] = {};

  // Adds the value of element `index`; call in ascending order of index.
  [[gnu::always_inline]] constexpr void Add(size_t index, T value) {
    lanes[index % kLanes] += value;
  }
  [[gnu::always_inline]] constexpr T Fold() const {
    T copy[kLanes] = {};
    for (size_t i = 0; i < kLanes; ++i) copy[i] = lanes[i];
    return FoldLanes(copy);
  }
};

}  // namespace octavo
