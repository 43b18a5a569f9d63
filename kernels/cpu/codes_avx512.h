#pragma once

// Sources, quotients and eight-bit codes in AVX-512 registers: what the quantizing kernels share.
// For files compiled for that instruction set only; everything is always inlined.
//
// The quotient of a 16-bit source x and a scale s is exact without a division: y = x * r with
// r = RN(1/s), then z = fma(fma(-y, s, x), r, y). That z is RN(x/s) holds for every pair of an
// 11-bit and a 24-bit significand (tests/kernels/exact_quotient_test.cc tries them all), provided
// nothing over- or underflows on the way; hence the bounds on s. An overflow, which needs
// |x/s| >= 2^127, ends as a NaN magnitude, which the minimum below turns into saturation. Quotients
// under 2^-11, where the residual may underflow, round to zero whatever their last bits are. F32
// sources are divided.

#include <immintrin.h>

#include <cstring>

#include "core/tensor/bare/scale.h"

namespace octavo::avx512 {

template <SourceType T>
[[gnu::always_inline]] inline __m512 Load16(const char* at) {
  if constexpr (T == SourceType::kF32) {
    return _mm512_loadu_ps(at);
  } else {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
    if constexpr (T == SourceType::kF16) return _mm512_cvtph_ps(half);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
}

// The first `count` < 16 elements, zeros behind them.
template <SourceType T>
[[gnu::always_inline]] inline __m512 LoadTail(const char* at, size_t count) {
  alignas(64) char padded[64] = {};
  memcpy(padded, at, count * ByteSize(T));
  return Load16<T>(padded);
}

[[gnu::always_inline]] inline __m512 Magnitude(__m512 x) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
}

struct Scale {
  __m512 value;
  __m512 reciprocal;
};

template <SourceType T>
[[gnu::always_inline]] inline bool QuotientWithoutDivision(float scale) {
  return T != SourceType::kF32 && scale >= 0x1p-60f && scale <= 0x1p60f;
}

// Where quotients down to 2^-50 must be exact, which the error measure of the MSE grid sees.
template <SourceType T>
[[gnu::always_inline]] inline bool GridQuotientWithoutDivision(float scale) {
  return T != SourceType::kF32 && scale >= 0x1p-28f && scale <= 0x1p60f;
}

template <bool kFast>
[[gnu::always_inline]] inline __m512 Quotient(__m512 x, const Scale& scale) {
  if constexpr (!kFast) return _mm512_div_ps(x, scale.value);
  const __m512 y = _mm512_mul_ps(x, scale.reciprocal);
  const __m512 rest = _mm512_fnmadd_ps(y, scale.value, x);
  return _mm512_fmadd_ps(rest, scale.reciprocal, y);
}

// ---- Codes ----

struct Coded {
  __m512i code;      // of the magnitude
  __m512 magnitude;  // what that code stands for
};

// `magnitude` >= 0 or NaN (saturates).
[[gnu::always_inline]] inline Coded EncodeFp8(__m512 magnitude) {
  const __m512 clamped = _mm512_min_ps(magnitude, _mm512_set1_ps(kFp8Max));
  const __m512i bits = _mm512_castps_si512(clamped);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 20), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7ffff)), odd);
  const __m512i normal =
      _mm512_sub_epi32(_mm512_srli_epi32(rounded, 20), _mm512_set1_epi32(120 << 3));
  const __m512 value =
      _mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(-(1 << 20))));
  // Under 2^-6: adding 2^14 rounds to units of 2^-9 and leaves them in the low bits.
  const __m512 base = _mm512_set1_ps(0x1p14f);
  const __mmask16 small = _mm512_cmp_ps_mask(clamped, _mm512_set1_ps(0x1p-6f), _CMP_LT_OQ);
  const __m512 shifted = _mm512_add_ps(clamped, base);
  return {
      _mm512_mask_sub_epi32(normal, small, _mm512_castps_si512(shifted), _mm512_castps_si512(base)),
      _mm512_mask_sub_ps(value, small, shifted, base)};
}

// The sign bit of `x` into bit 7 of each FP8 code.
[[gnu::always_inline]] inline __m512i WithFp8Sign(__m512i code, __m512 x) {
  const __m512i sign = _mm512_srli_epi32(_mm512_castps_si512(x), 24);
  return _mm512_ternarylogic_epi32(code, sign, _mm512_set1_epi32(0x80), 0xf8);  // a | (b & c)
}

[[gnu::always_inline]] inline __m512 WithSignOf(__m512 magnitude, __m512 x) {
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
      _mm512_castps_si512(magnitude), _mm512_castps_si512(x), _mm512_set1_epi32(INT32_MIN), 0xf8));
}

// The signed integer of each quotient; `magnitude` is what |code| stands for.
[[gnu::always_inline]] inline Coded EncodeInt8(__m512 quotient, __m512 x, __m512 negative_limit) {
  const __mmask16 negative = _mm512_movepi32_mask(_mm512_castps_si512(x));
  const __m512 limit = _mm512_mask_mov_ps(_mm512_set1_ps(kInt8Max), negative, negative_limit);
  const __m512 clamped = WithSignOf(_mm512_min_ps(quotient, limit), x);
  const __m512i code = _mm512_cvtps_epi32(clamped);
  return {code, _mm512_cvtepi32_ps(_mm512_abs_epi32(code))};
}

}  // namespace octavo::avx512
