// The specification of attention.h, norm.h, rope.h, activation.h and softmax.h.

#include <cmath>
#include <cstring>

#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/lane_sum.h"
#include "kernels/serving_twins.h"

namespace octavo::internal {
namespace {

float TileValue(WeightType type, const std::byte* tile, int64_t lane, int64_t depth) {
  const std::byte* at = tile + TileOffset(type, lane, depth);
  if (type == WeightType::kFp8) return F32FromFp8(static_cast<uint8_t>(*at));
  uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof(bits));
  return F32FromBf16(bits);
}

// The 32-block rule over one lane of tile `index`.
float BlockSum(WeightType type, const std::byte* tiles, int64_t index, int64_t lane,
               const float* x) {
  const std::byte* tile = tiles + index * TileBytes(type);
  float even = 0;
  float odd = 0;
  for (int64_t k = 0; k < kTileDepth; k += 2) {
    even = __builtin_fmaf(x[k], TileValue(type, tile, lane, k), even);
    odd = __builtin_fmaf(x[k + 1], TileValue(type, tile, lane, k + 1), odd);
  }
  return even + odd;
}

// Turns scores of keys 0..last into BF16 probabilities (as F32, zero after `last`); returns l.
float Probabilities(float* scores, int64_t last, int64_t padded) {
  float max = scores[0];
  for (int64_t j = 1; j <= last; ++j) max = scores[j] > max ? scores[j] : max;
  LaneSum<float> sum;
  for (int64_t j = 0; j < padded; ++j) {
    const float p = j <= last ? Exp(scores[j] - max) : 0.0f;
    sum.Add(static_cast<size_t>(j), p);
    scores[j] = F32FromBf16(Bf16FromF32(p));
  }
  return sum.Fold();
}

void AttendRow(const AttentionCall& call, int64_t row) {
  const KvLayout& layout = call.layout;
  const int64_t last = call.last_keys[row];
  const int64_t block_count = last / kKeyBlock + 1;
  const float* query = call.queries + row * layout.depth_blocks() * kTileDepth;
  float* scores = call.scores + row * call.block_count * kKeyBlock;
  for (int64_t j = 0; j <= last; ++j) {
    const std::byte* keys = call.blocks[j / kKeyBlock];
    const int64_t slot = j % kKeyBlock;
    float sum = 0;
    for (int64_t block = 0; block < layout.depth_blocks(); ++block) {
      const int64_t tile = slot / 16 * layout.depth_blocks() + block;
      sum += BlockSum(layout.type, keys, tile, slot % 16, query + block * kTileDepth);
    }
    scores[j] = sum * call.scale * call.key_scale;
  }
  const float l = Probabilities(scores, last, block_count * kKeyBlock);
  for (int64_t d = 0; d < layout.head_dim; ++d) {
    float sum = 0;
    for (int64_t block = 0; block < block_count; ++block) {
      const std::byte* values = call.blocks[block] + layout.key_bytes();
      sum += BlockSum(layout.type, values, d / 16, d % 16, scores + block * kKeyBlock);
    }
    call.out[row][d] = Bf16FromF32(sum / l * call.value_scale);
  }
}

void Attend(const AttentionCall& call) {
  for (int64_t row = 0; row < call.rows; ++row) AttendRow(call, row);
}

void RmsNorm(const uint16_t* x, const uint16_t* weight, int64_t count, float eps, uint16_t* out) {
  LaneSum<float> squares;
  for (int64_t i = 0; i < count; ++i) {
    const float value = F32FromBf16(x[i]);
    squares.Add(static_cast<size_t>(i), value * value);
  }
  const float factor = Rsqrt(squares.Fold() / static_cast<float>(count) + eps);
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t normed = Bf16FromF32(F32FromBf16(x[i]) * factor);
    out[i] = Bf16FromF32(F32FromBf16(normed) * F32FromBf16(weight[i]));
  }
}

void LayerNorm(const uint16_t* x, const uint16_t* weight, int64_t count, float eps, uint16_t* out) {
  LaneSum<float> sum;
  for (int64_t i = 0; i < count; ++i) sum.Add(static_cast<size_t>(i), F32FromBf16(x[i]));
  const float mean = sum.Fold() / static_cast<float>(count);
  LaneSum<float> squares;
  for (int64_t i = 0; i < count; ++i) {
    const float centred = F32FromBf16(x[i]) - mean;
    squares.Add(static_cast<size_t>(i), centred * centred);
  }
  const float factor = Rsqrt(squares.Fold() / static_cast<float>(count) + eps);
  for (int64_t i = 0; i < count; ++i) {
    out[i] = Bf16FromF32((F32FromBf16(x[i]) - mean) * factor * F32FromBf16(weight[i]));
  }
}

float RoundToBf16(float value) { return F32FromBf16(Bf16FromF32(value)); }

void Rotate(uint16_t* head, const uint16_t* cos, const uint16_t* sin, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; ++i) {
    const float low = F32FromBf16(head[i]);
    const float high = F32FromBf16(head[i + half]);
    const float c = F32FromBf16(cos[i]);
    const float s = F32FromBf16(sin[i]);
    head[i] = Bf16FromF32(RoundToBf16(low * c) + RoundToBf16(-high * s));
    head[i + half] = Bf16FromF32(RoundToBf16(high * c) + RoundToBf16(low * s));
  }
}

void SiluMultiply(const uint16_t* gate, const uint16_t* up, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) {
    const float g = F32FromBf16(gate[i]);
    const float silu = RoundToBf16(g / (1.0f + Exp(-g)));
    out[i] = Bf16FromF32(silu * F32FromBf16(up[i]));
  }
}

// By bits: minima and maxima of floats may flush subnormals, or not, as the compiler has it.
void Clip(uint16_t* x, int64_t count, float limit) {
  const uint32_t most = BitsOf(limit);
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits = static_cast<uint32_t>(x[i]) << 16;
    const uint32_t magnitude = bits & kF32MagnitudeMask;
    if (magnitude > most && magnitude <= kF32InfBits) bits = (bits & ~kF32MagnitudeMask) | most;
    x[i] = Bf16FromF32(FloatFromBits(bits));
  }
}

int64_t Argmax(const float* x, int64_t count) {
  int64_t best = 0;
  for (int64_t i = 1; i < count; ++i) {
    if (x[i] > x[best]) best = i;
  }
  return best;
}

LogSum LogSumOf(const float* x, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(x[i])) return {x[i] - x[i], x[i] - x[i]};
  }
  const float max = x[Argmax(x, count)];
  LaneSum<float> sum;
  for (int64_t i = 0; i < count; ++i) sum.Add(static_cast<size_t>(i), Exp(x[i] - max));
  return {max, Log(sum.Fold())};
}

void Softmax(const float* x, int64_t count, float* out) {
  const float max = x[Argmax(x, count)];
  LaneSum<float> sum;
  for (int64_t i = 0; i < count; ++i) {
    out[i] = Exp(x[i] - max);
    sum.Add(static_cast<size_t>(i), out[i]);
  }
  const float divisor = sum.Fold();
  for (int64_t i = 0; i < count; ++i) out[i] = out[i] / divisor;
}

}  // namespace

const ServingTwins kServingReference = {
    {Attend}, {RmsNorm, LayerNorm}, {Rotate}, {SiluMultiply, Clip}, {LogSumOf, Softmax, Argmax}};

}  // namespace octavo::internal
