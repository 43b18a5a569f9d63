#pragma once

// attention.h, norm.h, rope.h, activation.h and softmax.h over 16 virtual lanes. Included by one
// file per instruction set, which picks the lanes `L`; everything is local to that file.

#include <cstddef>
#include <cstdint>

#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/lane_sum.h"
#include "kernels/cpu/matmul_lanes.h"
#include "kernels/serving_twins.h"

namespace octavo::internal {
namespace {

constexpr int64_t kRowsAtOnce = 64;  // of attention: their probabilities stay in the cache

template <class L>
[[gnu::always_inline]] inline float Fold(typename L::F x) {
  float lanes[kLanes];
  L::Store(lanes, x);
  return FoldLanes(lanes);
}

template <class L>
float MaxOfLanes(typename L::F x) {
  float lanes[kLanes];
  L::Store(lanes, x);
  float max = lanes[0];
  for (size_t lane = 1; lane < kLanes; ++lane) max = lanes[lane] > max ? lanes[lane] : max;
  return max;
}

template <class L>
float LargestOf(const float* x, int64_t count) {
  typename L::F largest = L::Set(x[0]);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) largest = L::Max(L::Load(x + i), largest);
  if (i < count) largest = L::Max(L::LoadPart(x + i, count - i, x[0]), largest);
  return MaxOfLanes<L>(largest);
}

// Scores of keys 0..last to BF16 probabilities (as F32), zeros up to `padded`; returns their sum
// before rounding.
template <class L>
float Probabilities(float* scores, int64_t last, int64_t padded) {
  const int64_t count = last + 1;
  const typename L::F max = L::Set(LargestOf<L>(scores, count));
  typename L::F sum = L::Zero();
  for (int64_t j = 0; j < padded; j += 16) {
    if (j >= count) {
      L::Store(scores + j, L::Zero());
      continue;
    }
    typename L::F p = L::Exp(L::Sub(L::Load(scores + j), max));
    if (count - j < 16) p = L::KeepFirst(p, count - j);
    sum = L::Add(sum, p);
    L::Store(scores + j, L::RoundToBf16(p));
  }
  return Fold<L>(sum);
}

// rows x [32 keys] scores of one key block, scaled.
template <class L>
void ScoreBlock(const AttentionCall& call, int64_t block) {
  const KvLayout& layout = call.layout;
  const int64_t depth = layout.depth_blocks();
  const int64_t stride = call.block_count * kKeyBlock;
  float* scores = call.scores + block * kKeyBlock;
  const PackedWeights keys = {layout.type, 2, depth, call.blocks[block], nullptr};
  ClearSums<L>(call.rows, kKeyBlock, scores, stride);
  AddProducts<L>(keys, {call.rows, 0, 2, 0, depth}, call.queries, depth * kTileDepth, {}, scores,
                 stride);
  const typename L::F scale = L::Set(call.scale);
  const typename L::F key_scale = L::Set(call.key_scale);
  for (int64_t row = 0; row < call.rows; ++row) {
    for (int64_t j = 0; j < kKeyBlock; j += 16) {
      float* at = scores + row * stride + j;
      L::Store(at, L::Mul(L::Mul(L::Load(at), scale), key_scale));
    }
  }
}

template <class L>
void Attend(const AttentionCall& call) {
  const KvLayout& layout = call.layout;
  const int64_t groups = layout.value_groups();
  const int64_t stride = call.block_count * kKeyBlock;
  const int64_t width = groups * 16;
  for (int64_t block = 0; block < call.block_count; ++block) ScoreBlock<L>(call, block);
  ClearSums<L>(call.rows, width, call.sums, width);
  for (int64_t begin = 0; begin < call.rows; begin += kRowsAtOnce) {
    const int64_t rows = call.rows - begin < kRowsAtOnce ? call.rows - begin : kRowsAtOnce;
    float divisors[kRowsAtOnce];
    float* scores = call.scores + begin * stride;
    float* sums = call.sums + begin * width;
    for (int64_t r = 0; r < rows; ++r) {
      divisors[r] = Probabilities<L>(scores + r * stride, call.last_keys[begin + r], stride);
    }
    for (int64_t block = 0; block < call.block_count; ++block) {
      const PackedWeights values = {layout.type, groups, 1, call.blocks[block] + layout.key_bytes(),
                                    nullptr};
      AddProducts<L>(values, {rows, 0, groups, 0, 1}, scores + block * kKeyBlock, stride, {}, sums,
                     width);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const typename L::F divisor = L::Set(divisors[r]);
      const typename L::F value_scale = L::Set(call.value_scale);
      for (int64_t d = 0; d < layout.head_dim; d += 16) {
        const typename L::F o = L::Mul(L::Div(L::Load(sums + r * width + d), divisor), value_scale);
        const int64_t left = layout.head_dim - d;
        if (left >= 16) {
          L::StoreBf16(call.out[begin + r] + d, o);
        } else {
          L::StoreBf16Part(call.out[begin + r] + d, o, left);
        }
      }
    }
  }
}

// Calls body(index, lanes in use) for runs of 16 elements.
template <typename Body>
[[gnu::always_inline]] inline void ForLanes(int64_t count, Body body) {
  for (int64_t i = 0; i < count; i += 16) body(i, count - i < 16 ? count - i : 16);
}

template <class L>
[[gnu::always_inline]] inline typename L::F LoadBf16Of(const uint16_t* p, int64_t count) {
  return count == 16 ? L::LoadBf16(p) : L::LoadBf16Part(p, count);
}
template <class L>
[[gnu::always_inline]] inline void StoreBf16Of(uint16_t* p, typename L::F x, int64_t count) {
  if (count == 16) {
    L::StoreBf16(p, x);
  } else {
    L::StoreBf16Part(p, x, count);
  }
}

template <class L>
[[gnu::always_inline]] inline void StoreOf(float* p, typename L::F x, int64_t count) {
  if (count == 16) {
    L::Store(p, x);
  } else {
    L::StorePart(p, x, count);
  }
}

template <class L>
void RmsNorm(const uint16_t* x, const uint16_t* weight, int64_t count, float eps, uint16_t* out) {
  typename L::F squares = L::Zero();
  ForLanes(
      count, [&](int64_t i, int64_t used) __attribute__((always_inline)) {
        const typename L::F value = LoadBf16Of<L>(x + i, used);
        squares = L::Add(squares, L::Mul(value, value));
      });
  const float mean = Fold<L>(squares) / static_cast<float>(count);
  const typename L::F factor = L::Set(octavo::Rsqrt(mean + eps));
  ForLanes(
      count, [&](int64_t i, int64_t used) __attribute__((always_inline)) {
        const typename L::F normed = L::RoundToBf16(L::Mul(LoadBf16Of<L>(x + i, used), factor));
        StoreBf16Of<L>(out + i, L::Mul(normed, LoadBf16Of<L>(weight + i, used)), used);
      });
}

template <class L>
void LayerNorm(const uint16_t* x, const uint16_t* weight, int64_t count, float eps, uint16_t* out) {
  typename L::F sum = L::Zero();
  ForLanes(
      count, [&](int64_t i, int64_t used)
                 __attribute__((always_inline)) { sum = L::Add(sum, LoadBf16Of<L>(x + i, used)); });
  const typename L::F mean = L::Set(Fold<L>(sum) / static_cast<float>(count));
  typename L::F squares = L::Zero();
  ForLanes(
      count, [&](int64_t i, int64_t used) __attribute__((always_inline)) {
        typename L::F centred = L::Sub(LoadBf16Of<L>(x + i, used), mean);
        if (used < 16) centred = L::KeepFirst(centred, used);
        squares = L::Add(squares, L::Mul(centred, centred));
      });
  const float variance = Fold<L>(squares) / static_cast<float>(count);
  const typename L::F factor = L::Set(octavo::Rsqrt(variance + eps));
  ForLanes(
      count, [&](int64_t i, int64_t used) __attribute__((always_inline)) {
        const typename L::F normed = L::Mul(L::Sub(LoadBf16Of<L>(x + i, used), mean), factor);
        StoreBf16Of<L>(out + i, L::Mul(normed, LoadBf16Of<L>(weight + i, used)), used);
      });
}

template <class L>
void Rotate(uint16_t* head, const uint16_t* cos, const uint16_t* sin, int64_t head_dim) {
  uint16_t* upper = head + head_dim / 2;
  ForLanes(
      head_dim / 2, [&](int64_t i, int64_t used) __attribute__((always_inline)) {
        const typename L::F low = LoadBf16Of<L>(head + i, used);
        const typename L::F high = LoadBf16Of<L>(upper + i, used);
        const typename L::F c = LoadBf16Of<L>(cos + i, used);
        const typename L::F s = LoadBf16Of<L>(sin + i, used);
        const typename L::F first =
            L::Add(L::RoundToBf16(L::Mul(low, c)), L::RoundToBf16(L::Mul(L::Negate(high), s)));
        const typename L::F second =
            L::Add(L::RoundToBf16(L::Mul(high, c)), L::RoundToBf16(L::Mul(low, s)));
        StoreBf16Of<L>(head + i, first, used);
        StoreBf16Of<L>(upper + i, second, used);
      });
}

template <class L>
void SiluMultiply(const uint16_t* gate, const uint16_t* up, int64_t count, uint16_t* out) {
  ForLanes(
      count, [&](int64_t i, int64_t used) __attribute__((always_inline)) {
        const typename L::F g = LoadBf16Of<L>(gate + i, used);
        const typename L::F silu =
            L::RoundToBf16(L::Div(g, L::Add(L::Set(1.0f), L::Exp(L::Negate(g)))));
        StoreBf16Of<L>(out + i, L::Mul(silu, LoadBf16Of<L>(up + i, used)), used);
      });
}

template <class L>
void Clip(uint16_t* x, int64_t count, float limit) {
  ForLanes(
      count, [&](int64_t i, int64_t used) __attribute__((always_inline)) {
        StoreBf16Of<L>(x + i, L::Clamp(LoadBf16Of<L>(x + i, used), limit), used);
      });
}

template <class L>
int64_t Argmax(const float* x, int64_t count) {
  const float max = LargestOf<L>(x, count);
  for (int64_t i = 0; i < count; ++i) {
    if (x[i] == max) return i;
  }
  return 0;
}

template <class L>
LogSum LogSumOf(const float* x, int64_t count) {
  const float max = LargestOf<L>(x, count);
  const typename L::F wide = L::Set(max);
  typename L::F sum = L::Zero();
  typename L::F lowest = L::Negate(wide);  // the largest of the negated
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const typename L::F v = L::Load(x + i);
    lowest = L::Max(L::Negate(v), lowest);
    sum = L::Add(sum, L::Exp(L::Sub(v, wide)));
  }
  if (i < count) {
    const typename L::F v = L::LoadPart(x + i, count - i, max);
    lowest = L::Max(L::Negate(v), lowest);
    sum = L::Add(sum, L::KeepFirst(L::Exp(L::Sub(v, wide)), count - i));
  }
  // A NaN or a positive infinity makes the sum a NaN; a negative infinity shows in `lowest` only.
  const float total = Fold<L>(sum);
  const float bad = FloatFromBits(kF32InfBits);
  if (!(total < bad) || !(MaxOfLanes<L>(lowest) < bad)) return {bad - bad, bad - bad};
  return {max, octavo::Log(total)};
}

template <class L>
void Softmax(const float* x, int64_t count, float* out) {
  const float max = x[Argmax<L>(x, count)];
  const typename L::F wide = L::Set(max);
  typename L::F sum = L::Zero();
  ForLanes(
      count, [&](int64_t i, int64_t used) __attribute__((always_inline)) {
        typename L::F p =
            L::Exp(L::Sub(used == 16 ? L::Load(x + i) : L::LoadPart(x + i, used, max), wide));
        if (used < 16) p = L::KeepFirst(p, used);
        sum = L::Add(sum, p);
        StoreOf<L>(out + i, p, used);
      });
  const typename L::F divisor = L::Set(Fold<L>(sum));
  ForLanes(
      count, [&](int64_t i, int64_t used) __attribute__((always_inline)) {
        const typename L::F p = used == 16 ? L::Load(out + i) : L::LoadPart(out + i, used, 0.0f);
        StoreOf<L>(out + i, L::Div(p, divisor), used);
      });
}

template <class L>
constexpr ServingTwins ServingTwinsOf() {
  return {{Attend<L>},
          {RmsNorm<L>, LayerNorm<L>},
          {Rotate<L>},
          {SiluMultiply<L>, Clip<L>},
          {LogSumOf<L>, Softmax<L>, Argmax<L>}};
}

}  // namespace
}  // namespace octavo::internal
