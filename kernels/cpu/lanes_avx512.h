#pragma once

// The 16 virtual lanes of the numerics as one AVX-512 register. Only *_avx512*.cc include this.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/float_bits.h"

namespace octavo::internal {
namespace {

struct LanesAvx512 {
  using F = __m512;
  static constexpr int kRowTile = 8;  // rows whose products stay in registers
  // Groups of 16 channels that so many rows walk at a time.
  static constexpr int Streams(int rows) { return rows <= 2 ? 4 : rows <= 4 ? 2 : 1; }
  static constexpr bool kDecodes = false;  // many rows: weights are decoded beforehand
  static constexpr int kBlockRows = 6;     // the same, of products with decoded numbers
  static constexpr int kBlockGroups = 2;

  [[gnu::always_inline]] static F Zero() { return _mm512_setzero_ps(); }
  [[gnu::always_inline]] static F Set(float x) { return _mm512_set1_ps(x); }
  [[gnu::always_inline]] static F Load(const float* p) { return _mm512_loadu_ps(p); }
  [[gnu::always_inline]] static void Store(float* p, F x) { _mm512_storeu_ps(p, x); }
  [[gnu::always_inline]] static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  [[gnu::always_inline]] static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  [[gnu::always_inline]] static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  [[gnu::always_inline]] static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  [[gnu::always_inline]] static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  // x beyond +-limit becomes +-limit. By bits, so that subnormals and NaN stay.
  [[gnu::always_inline]] static F Clamp(F x, float limit) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i sign = _mm512_set1_epi32(static_cast<int>(0x80000000u));
    const __m512i magnitude = _mm512_andnot_si512(sign, bits);
    const __m512i most = _mm512_castps_si512(_mm512_set1_ps(limit));
    const __mmask16 number = _mm512_cmple_epi32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
    const __mmask16 beyond = _mm512_mask_cmpgt_epi32_mask(number, magnitude, most);
    return _mm512_castsi512_ps(
        _mm512_mask_or_epi32(bits, beyond, _mm512_and_si512(bits, sign), most));
  }
  // a * b + c with one rounding.
  [[gnu::always_inline]] static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  [[gnu::always_inline]] static F Negate(F a) {
    return _mm512_castsi512_ps(
        _mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
  }

  // The first `count` (1..16) elements; the other lanes are `rest`.
  [[gnu::always_inline]] static __mmask16 First(int64_t count) {
    return static_cast<__mmask16>((1u << count) - 1u);
  }
  [[gnu::always_inline]] static F LoadPart(const float* p, int64_t count, float rest) {
    return _mm512_mask_loadu_ps(Set(rest), First(count), p);
  }
  [[gnu::always_inline]] static void StorePart(float* p, F x, int64_t count) {
    _mm512_mask_storeu_ps(p, First(count), x);
  }
  // Lanes from `count` on become +0.
  [[gnu::always_inline]] static F KeepFirst(F x, int64_t count) {
    return _mm512_maskz_mov_ps(First(count), x);
  }

  [[gnu::always_inline]] static F WidenBf16(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  [[gnu::always_inline]] static F LoadBf16(const uint16_t* p) {
    return WidenBf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  [[gnu::always_inline]] static F LoadBf16Part(const uint16_t* p, int64_t count) {
    return WidenBf16(_mm256_maskz_loadu_epi16(First(count), p));
  }
  // Bf16FromF32 in every lane, in the lower half of each.
  [[gnu::always_inline]] static __m512i Bf16Bits(F x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i upper = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
  }
  [[gnu::always_inline]] static void StoreBf16(uint16_t* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(Bf16Bits(x)));
  }
  [[gnu::always_inline]] static void StoreBf16Part(uint16_t* p, F x, int64_t count) {
    _mm256_mask_storeu_epi16(p, First(count), _mm512_cvtepi32_epi16(Bf16Bits(x)));
  }
  [[gnu::always_inline]] static F RoundToBf16(F x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(Bf16Bits(x), 16));
  }

  [[gnu::always_inline]] static F FromInt32(const int32_t* p) {
    return _mm512_cvtepi32_ps(_mm512_loadu_si512(p));
  }

  // octavo::Exp in every lane.
  [[gnu::always_inline]] static F Exp(F x) {
    const F n = Sub(Fma(x, Set(kExpLog2E), Set(kExpRound)), Set(kExpRound));
    F r = Fma(n, Set(-kExpLn2High), x);
    r = Fma(n, Set(-kExpLn2Low), r);
    F q = Fma(Set(kExpC5), r, Set(kExpC4));
    q = Fma(q, r, Set(kExpC3));
    q = Fma(q, r, Set(kExpC2));
    q = Fma(q, r, Set(kExpC1));
    q = Fma(q, r, Set(kExpC0));
    const F p = Add(Fma(q, Mul(r, r), r), Set(1.0f));
    F result = _mm512_scalef_ps(p, n);
    result = _mm512_mask_mov_ps(result, _mm512_cmp_ps_mask(x, Set(kExpMax), _CMP_GT_OQ),
                                _mm512_castsi512_ps(_mm512_set1_epi32(0x7f800000)));
    return _mm512_mask_mov_ps(result, _mm512_cmp_ps_mask(x, Set(kExpMin), _CMP_LT_OQ), Zero());
  }

  // A 64-byte line of BF16 pairs: 16 numbers of even k and 16 of odd k.
  [[gnu::always_inline]] static void Bf16Line(const std::byte* line, F* even, F* odd) {
    const __m512i pairs = _mm512_loadu_si512(line);
    SplitPairs(pairs, even, odd);
  }
  [[gnu::always_inline]] static void SplitPairs(__m512i pairs, F* even, F* odd) {
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    *odd = _mm512_castsi512_ps(
        _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  // A 64-byte line of FP8 codes: out[i] holds k = i of 16 channels. As an F16 the code's bits stand
  // for 2^-8 of its value, subnormals included.
  [[gnu::always_inline]] static void Fp8Line(const std::byte* line, F* out) {
    const __m512i codes = _mm512_loadu_si512(line);
    const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
    const __m512i sorted = _mm512_permutexvar_epi64(order, codes);  // k 0,1 of all, then k 2,3
    const __m512i mask = _mm512_set1_epi16(static_cast<int16_t>(0xbf80));
    const __m512i even = _mm512_and_si512(_mm512_srai_epi16(_mm512_slli_epi16(sorted, 8), 1), mask);
    const __m512i odd = _mm512_and_si512(_mm512_srai_epi16(sorted, 1), mask);
    const F scale = Set(256.0f);
    out[0] = Mul(_mm512_cvtph_ps(_mm512_castsi512_si256(even)), scale);
    out[1] = Mul(_mm512_cvtph_ps(_mm512_castsi512_si256(odd)), scale);
    out[2] = Mul(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(even, 1)), scale);
    out[3] = Mul(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(odd, 1)), scale);
  }
};

}  // namespace
}  // namespace octavo::internal
