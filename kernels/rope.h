#pragma once

// Rotary position embedding, half-split as in Hugging Face's Llama: frequencies and angles in F32,
// cosine and sine rounded to BF16, rotation in BF16 with a rounding after every operation.

#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

enum class RopeScalingType : uint8_t { kNone = 0, kLinear = 1, kLlama3 = 2 };

struct RopeParameters {
  double theta = 10000;
  int64_t head_dim = 0;  // even
  RopeScalingType scaling = RopeScalingType::kNone;
  float factor = 1;
  // Llama 3.1: wavelengths under original / high_factor stay, above original / low_factor are
  // divided by `factor`, and in between both are blended.
  float low_factor = 1;
  float high_factor = 1;
  float original_max_position = 0;
};

// frequencies[i], i < head_dim / 2: F32(1 / F32(theta^(2i/head_dim))), then scaled in F32.
void RopeFrequencies(const RopeParameters& parameters, float* frequencies);

// cos and sin, [head_dim / 2] BF16 each, of the angles F32(position * frequencies[i]).
// REQUIRES position < 2^20.
void RopeRow(const float* frequencies, int64_t head_dim, int64_t position, uint16_t* cos,
             uint16_t* sin);

struct RopeOps {
  // One head in place: with h = head_dim / 2, x[i] = BF16(BF16(x[i] cos_i) + BF16(-x[i+h] sin_i)),
  // x[i+h] = BF16(BF16(x[i+h] cos_i) + BF16(x[i] sin_i)).
  void (*rotate)(uint16_t* head, const uint16_t* cos, const uint16_t* sin, int64_t head_dim);
};

const RopeOps& RopeOpsFor(Isa isa);
std::span<const KernelRow> RopeKernelRows();

}  // namespace octavo
