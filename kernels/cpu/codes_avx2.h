#pragma once

// Sources, quotients and eight-bit codes in AVX2 registers: what the quantizing kernels share.
// For files compiled for that instruction set only; everything is always inlined.
//
// The methods, and why they are exact, are those of codes_avx512.h.

#include <immintrin.h>

#include <cstring>

#include "core/tensor/bare/scale.h"
#include "kernels/cpu/quotient.h"

namespace octavo::avx2 {

template <SourceType T>
[[gnu::always_inline]] inline __m256 Load8(const char* at) {
  if constexpr (T == SourceType::kF32) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(at));
  } else {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
    if constexpr (T == SourceType::kF16) return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
}

// A block of 16 elements, zeros behind the first `count`.
struct Padded {
  alignas(32) char bytes[64] = {};
  [[gnu::always_inline]] Padded(const char* at, size_t size) { memcpy(bytes, at, size); }
};

[[gnu::always_inline]] inline __m256 Magnitude(__m256 x) {
  return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
}
[[gnu::always_inline]] inline __m256 SignOf(__m256 x) {
  return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MIN)));
}

struct Scale {
  __m256 value;
  __m256 reciprocal;
};

template <bool kFast>
[[gnu::always_inline]] inline __m256 Quotient(__m256 x, const Scale& scale) {
  if constexpr (!kFast) return _mm256_div_ps(x, scale.value);
  const __m256 y = _mm256_mul_ps(x, scale.reciprocal);
  const __m256 rest = _mm256_fnmadd_ps(y, scale.value, x);
  return _mm256_fmadd_ps(rest, scale.reciprocal, y);
}

// ---- Codes ----

struct Coded {
  __m256i code;
  __m256 magnitude;
};

// RoundToFp8 of codes_avx512.h, after saturation.
[[gnu::always_inline]] inline Coded EncodeFp8(__m256 magnitude) {
  const __m256 clamped = _mm256_min_ps(magnitude, _mm256_set1_ps(kFp8Max));
  const __m256i exponent = _mm256_max_epi32(
      _mm256_and_si256(_mm256_castps_si256(clamped), _mm256_set1_epi32(0x7f800000)),
      _mm256_set1_epi32(0x3c800000));
  const __m256 base = _mm256_castsi256_ps(
      _mm256_add_epi32(exponent, _mm256_set1_epi32((20 << 23) + 0x400000 - 968)));
  const __m256 shifted = _mm256_add_ps(clamped, base);
  const __m256i code =
      _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_srli_epi32(exponent, 20));
  return {_mm256_and_si256(code, _mm256_set1_epi32(0x7f)), _mm256_sub_ps(shifted, base)};
}

[[gnu::always_inline]] inline __m256i WithFp8Sign(__m256i code, __m256 x) {
  return _mm256_or_si256(code, _mm256_srli_epi32(_mm256_castps_si256(SignOf(x)), 24));
}

[[gnu::always_inline]] inline Coded EncodeInt8(__m256 quotient, __m256 x, __m256 negative_limit) {
  const __m256 limit = _mm256_blendv_ps(_mm256_set1_ps(kInt8Max), negative_limit, x);
  const __m256 clamped = _mm256_or_ps(_mm256_min_ps(quotient, limit), SignOf(x));
  const __m256i code = _mm256_cvtps_epi32(clamped);
  return {code, _mm256_cvtepi32_ps(_mm256_abs_epi32(code))};
}

}  // namespace octavo::avx2
