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
#include "kernels/cpu/quotient.h"

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

// mask ? a : b, bit by bit.
[[gnu::always_inline]] inline __m512i Select(__m512i mask, __m512i a, __m512i b) {
  return _mm512_ternarylogic_epi32(mask, a, b, 0xca);
}

struct Fp8Rounded {
  __m512i code_byte;  // the code in the low byte; the other bytes are arbitrary
  __m512 value;
};

// Rounds 0 <= magnitude <= 448 to E4M3. Adding M = 1.5 * 2^(e+20), e the exponent but at least -6,
// rounds to units of 2^(e-3) (nearest even) and leaves the number of units in the low bits. The
// code is units + 8 (e + 6), that is units + (biased exponent << 3) - 968; the -968 is hidden in M
// (it is even, so ties stay ties), and of M and of the exponent field nothing reaches the low byte.
[[gnu::always_inline]] inline Fp8Rounded RoundToFp8(__m512 magnitude) {
  const __m512i exponent = _mm512_max_epi32(
      _mm512_and_si512(_mm512_castps_si512(magnitude), _mm512_set1_epi32(0x7f800000)),
      _mm512_set1_epi32(0x3c800000));
  const __m512 base = _mm512_castsi512_ps(
      _mm512_add_epi32(exponent, _mm512_set1_epi32((20 << 23) + 0x400000 - 968)));
  const __m512 shifted = _mm512_add_ps(magnitude, base);
  return {_mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_srli_epi32(exponent, 20)),
          _mm512_sub_ps(shifted, base)};
}

// `magnitude` >= 0 or NaN (saturates). The code's upper bytes are zero.
[[gnu::always_inline]] inline Coded EncodeFp8(__m512 magnitude) {
  const Fp8Rounded rounded = RoundToFp8(_mm512_min_ps(magnitude, _mm512_set1_ps(kFp8Max)));
  return {_mm512_and_si512(rounded.code_byte, _mm512_set1_epi32(0x7f)), rounded.value};
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
