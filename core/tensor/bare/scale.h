#pragma once

// How a scale follows from a magnitude maximum: `real = code * scale`. Every scale on disk is such
// a multiplier, finite and > 0.

#include <cstdint>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/int8.h"
#include "core/tensor/bare/source_type.h"

namespace octavo {

// The kinds of eight-bit code.
enum class CodeType : uint8_t { kFp8 = 0, kInt8 = 1 };

// Largest magnitude that a code stands for, in units of the scale: 448 or 127.
[[gnu::always_inline]] inline constexpr float CodeMax(CodeType type) {
  return type == CodeType::kFp8 ? kFp8Max : kInt8Max;
}

// `scale` rounded (nearest even) to the type in which it is stored, as an F32. A result that would
// fall under 2^-126 becomes 2^-126 (F16: under 2^-24 becomes 2^-24); one that would overflow
// becomes the type's largest finite value. REQUIRES: scale >= 0 and not a NaN.
[[gnu::always_inline]] inline constexpr float RoundScale(float scale, SourceType stored) {
  if (stored == SourceType::kF16) {
    uint16_t bits = F16FromF32(scale);
    if (bits == 0) bits = 1;
    if (bits >= 0x7c00u) bits = 0x7bffu;
    return F32FromF16(bits);
  }
  if (stored == SourceType::kBf16) {
    uint16_t bits = Bf16FromF32(scale);
    if (bits < 0x0080u) bits = 0x0080u;
    if (bits >= 0x7f80u) bits = 0x7f7fu;
    return F32FromBf16(bits);
  }
  if (BitsOf(scale) < kF32MinNormalBits) return kF32MinNormal;
  return BitsOf(scale) >= kF32InfBits ? FloatFromBits(kF32InfBits - 1) : scale;
}

// The weight scale of a group: one F32 division of the maximum by `code_max`, then RoundScale. A
// group that is all zero (amax_bits == 0) gets scale 1. REQUIRES: amax_bits finite.
[[gnu::always_inline]] inline constexpr float WeightScale(uint32_t amax_bits, float code_max,
                                                          SourceType stored) {
  if (amax_bits == 0) return 1.0f;
  return RoundScale(FloatFromBits(amax_bits) / code_max, stored);
}

// ---- As other tools make scales and codes (core/scheme/compat.h) ----

enum class ScaleFormula : uint8_t {
  kF32,             // WeightScale
  kBf16Quotient,    // amax / code_max, rounded to BF16; then stored
  kBf16Reciprocal,  // FP8 only: 1 / Bf16Factor, one F32 division; then stored
};

// How the number that becomes a code follows from x and the scale.
enum class Quotient : uint8_t {
  kExact,         // x / scale in F32
  kRounded,       // the same, rounded to the source's type
  kByReciprocal,  // x times 1 / scale, both rounded to the source's type
};

// What a BF16 value is multiplied by: 448 / amax as BF16 arithmetic has it that takes the
// reciprocal first and rounds twice. Maxima below 1e-12 count as that.
[[gnu::always_inline]] inline constexpr float Bf16Factor(uint32_t amax_bits) {
  constexpr uint32_t kAmaxMinBits = 0x2b8d0000u;  // 1e-12 as BF16
  const float amax = FloatFromBits(amax_bits < kAmaxMinBits ? kAmaxMinBits : amax_bits);
  const float reciprocal = F32FromBf16(Bf16FromF32(1.0f / amax));
  return F32FromBf16(Bf16FromF32(reciprocal * kFp8Max));
}

// REQUIRES: amax_bits finite; not 0 but for kBf16Reciprocal.
[[gnu::always_inline]] inline constexpr float ScaleByFormula(ScaleFormula formula,
                                                             uint32_t amax_bits, float code_max,
                                                             SourceType stored) {
  if (formula == ScaleFormula::kBf16Reciprocal) {
    return RoundScale(1.0f / Bf16Factor(amax_bits), stored);
  }
  const float scale = FloatFromBits(amax_bits) / code_max;
  const bool rounded = formula == ScaleFormula::kBf16Quotient;
  return RoundScale(rounded ? RoundScale(scale, SourceType::kBf16) : scale, stored);
}

// Bits of a scale in its stored type, in the low half for the two 16-bit types. Exact for values
// that RoundScale returned.
[[gnu::always_inline]] inline constexpr uint32_t StoredScaleBits(float scale, SourceType stored) {
  if (stored == SourceType::kF16) return F16FromF32(scale);
  if (stored == SourceType::kBf16) return Bf16FromF32(scale);
  return BitsOf(scale);
}

// ---- Activations, at run time ----

// Smallest dynamic FP8 scale.
inline constexpr float kFp8DynamicScaleMin = 1.0f / (448.0f * 512.0f);
// Smallest maximum of the dynamic INT8 formula: keeps the scale at 2^-126 or above.
inline constexpr float kInt8DynamicAmaxMin = 127.0f * 0x1p-126f;

// FP8, one scale per token or per group of 128: codes are Fp8FromF32(x / scale).
[[gnu::always_inline]] inline constexpr float Fp8DynamicScale(uint32_t amax_bits) {
  const float scale = FloatFromBits(amax_bits) / kFp8Max;
  return scale < kFp8DynamicScaleMin ? kFp8DynamicScaleMin : scale;
}

// INT8, one scale per token: codes are Int8FromF32(x * factor).
struct Int8Dynamic {
  float scale;   // amax / 127
  float factor;  // 127 / amax
};
[[gnu::always_inline]] inline constexpr Int8Dynamic Int8DynamicScale(uint32_t amax_bits) {
  const float raw = FloatFromBits(amax_bits);
  const float amax = raw < kInt8DynamicAmaxMin ? kInt8DynamicAmaxMin : raw;
  return {amax / kInt8Max, kInt8Max / amax};
}

}  // namespace octavo
