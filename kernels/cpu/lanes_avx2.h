#pragma once

// The 16 virtual lanes of the numerics as two AVX2 registers. Only *_avx2.cc include this.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "core/tensor/bare/elementary.h"
#include "core/tensor/bare/float_bits.h"

namespace octavo::internal {
namespace {

struct LanesAvx2 {
  struct F {
    __m256 a, b;  // lanes 0..7, 8..15
  };
  static constexpr int kRowTile = 3;  // rows whose products stay in registers
  // Groups of 16 channels that so many rows walk at a time.
  static constexpr int Streams(int rows) { return rows == 1 ? 2 : 1; }
  static constexpr bool kDecodes = true;  // many rows: weights are decoded beforehand
  static constexpr int kBlockRows = 3;    // the same, of products with decoded numbers
  static constexpr int kBlockGroups = 1;

  [[gnu::always_inline]] static F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  [[gnu::always_inline]] static F Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  [[gnu::always_inline]] static F Load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
  }
  [[gnu::always_inline]] static void Store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  [[gnu::always_inline]] static F Add(F a, F b) {
    return {_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)};
  }
  [[gnu::always_inline]] static F Sub(F a, F b) {
    return {_mm256_sub_ps(a.a, b.a), _mm256_sub_ps(a.b, b.b)};
  }
  [[gnu::always_inline]] static F Mul(F a, F b) {
    return {_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)};
  }
  [[gnu::always_inline]] static F Div(F a, F b) {
    return {_mm256_div_ps(a.a, b.a), _mm256_div_ps(a.b, b.b)};
  }
  [[gnu::always_inline]] static F Max(F a, F b) {
    return {_mm256_max_ps(a.a, b.a), _mm256_max_ps(a.b, b.b)};
  }
  // x beyond +-limit becomes +-limit. By bits, so that subnormals and NaN stay.
  [[gnu::always_inline]] static __m256 Clamp(__m256 x, float limit) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i sign = _mm256_set1_epi32(static_cast<int>(0x80000000u));
    const __m256i magnitude = _mm256_andnot_si256(sign, bits);
    const __m256i most = _mm256_castps_si256(_mm256_set1_ps(limit));
    const __m256i nan = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x7f800000));
    const __m256i beyond = _mm256_andnot_si256(nan, _mm256_cmpgt_epi32(magnitude, most));
    const __m256i clamped = _mm256_or_si256(_mm256_and_si256(bits, sign), most);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(bits, clamped, beyond));
  }
  [[gnu::always_inline]] static F Clamp(F x, float limit) {
    return {Clamp(x.a, limit), Clamp(x.b, limit)};
  }
  // a * b + c with one rounding.
  [[gnu::always_inline]] static F Fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)};
  }
  [[gnu::always_inline]] static F Negate(F a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_xor_ps(a.a, sign), _mm256_xor_ps(a.b, sign)};
  }

  // The first `count` (1..16) elements; the other lanes are `rest`.
  [[gnu::always_inline]] static F LoadPart(const float* p, int64_t count, float rest) {
    float all[16];
    for (int64_t i = 0; i < 16; ++i) all[i] = i < count ? p[i] : rest;
    return Load(all);
  }
  [[gnu::always_inline]] static void StorePart(float* p, F x, int64_t count) {
    float all[16];
    Store(all, x);
    for (int64_t i = 0; i < count; ++i) p[i] = all[i];
  }
  // Lanes from `count` on become +0.
  [[gnu::always_inline]] static F KeepFirst(F x, int64_t count) {
    float all[16];
    Store(all, x);
    return LoadPart(all, count, 0.0f);
  }

  [[gnu::always_inline]] static __m256 WidenBf16(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  [[gnu::always_inline]] static F LoadBf16(const uint16_t* p) {
    return {WidenBf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            WidenBf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  [[gnu::always_inline]] static F LoadBf16Part(const uint16_t* p, int64_t count) {
    uint16_t all[16];
    for (int64_t i = 0; i < 16; ++i) all[i] = i < count ? p[i] : 0;
    return LoadBf16(all);
  }
  // Bf16FromF32 in every lane, in the lower half of each.
  [[gnu::always_inline]] static __m256i Bf16Bits(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i upper = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, _mm256_or_si256(upper, _mm256_set1_epi32(0x40)), nan);
  }
  [[gnu::always_inline]] static void StoreBf16(uint16_t* p, F x) {
    const __m256i packed = _mm256_packus_epi32(Bf16Bits(x.a), Bf16Bits(x.b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
  }
  [[gnu::always_inline]] static void StoreBf16Part(uint16_t* p, F x, int64_t count) {
    uint16_t all[16];
    StoreBf16(all, x);
    for (int64_t i = 0; i < count; ++i) p[i] = all[i];
  }
  [[gnu::always_inline]] static F RoundToBf16(F x) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(Bf16Bits(x.a), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(Bf16Bits(x.b), 16))};
  }

  [[gnu::always_inline]] static F FromInt32(const int32_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))),
            _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8)))};
  }

  // 2^n of the exponents that Exp's rounding left in `shifted`, times p.
  [[gnu::always_inline]] static __m256 Scale(__m256 p, __m256 shifted) {
    const __m256i round = _mm256_set1_epi32(0x4b400000);
    const __m256i n = _mm256_sub_epi32(_mm256_castps_si256(shifted), round);
    const __m256i half = _mm256_srai_epi32(n, 1);
    const __m256i bias = _mm256_set1_epi32(127);
    const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high));
  }
  [[gnu::always_inline]] static __m256 Limit(__m256 x, __m256 result) {
    const __m256 over = _mm256_cmp_ps(x, _mm256_set1_ps(kExpMax), _CMP_GT_OQ);
    const __m256 under = _mm256_cmp_ps(x, _mm256_set1_ps(kExpMin), _CMP_LT_OQ);
    const __m256 inf = _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000));
    return _mm256_andnot_ps(under, _mm256_blendv_ps(result, inf, over));
  }
  // octavo::Exp in every lane.
  [[gnu::always_inline]] static F Exp(F x) {
    const F shifted = Fma(x, Set(kExpLog2E), Set(kExpRound));
    const F n = Sub(shifted, Set(kExpRound));
    F r = Fma(n, Set(-kExpLn2High), x);
    r = Fma(n, Set(-kExpLn2Low), r);
    F q = Fma(Set(kExpC5), r, Set(kExpC4));
    q = Fma(q, r, Set(kExpC3));
    q = Fma(q, r, Set(kExpC2));
    q = Fma(q, r, Set(kExpC1));
    q = Fma(q, r, Set(kExpC0));
    const F p = Add(Fma(q, Mul(r, r), r), Set(1.0f));
    return {Limit(x.a, Scale(p.a, shifted.a)), Limit(x.b, Scale(p.b, shifted.b))};
  }

  // A 64-byte line of BF16 pairs: 16 numbers of even k and 16 of odd k.
  [[gnu::always_inline]] static void Bf16Line(const std::byte* line, F* even, F* odd) {
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    const auto* p = reinterpret_cast<const __m256i*>(line);
    const __m256i first = _mm256_loadu_si256(p);
    const __m256i second = _mm256_loadu_si256(p + 1);
    *even = {_mm256_castsi256_ps(_mm256_slli_epi32(first, 16)),
             _mm256_castsi256_ps(_mm256_slli_epi32(second, 16))};
    *odd = {_mm256_castsi256_ps(_mm256_and_si256(first, mask)),
            _mm256_castsi256_ps(_mm256_and_si256(second, mask))};
  }
  // Half a line of FP8 codes (8 channels): out[i] holds k = i. As an F16 the code's bits stand for
  // 2^-8 of its value, subnormals included.
  [[gnu::always_inline]] static void HalfLine(__m256i codes, __m256* out) {
    const __m256i sorted = _mm256_permute4x64_epi64(codes, 0xd8);  // k 0,1 of all, then k 2,3
    const __m256i mask = _mm256_set1_epi16(static_cast<int16_t>(0xbf80));
    const __m256i even = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(sorted, 8), 1), mask);
    const __m256i odd = _mm256_and_si256(_mm256_srai_epi16(sorted, 1), mask);
    const __m256 scale = _mm256_set1_ps(256.0f);
    out[0] = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(even)), scale);
    out[1] = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(odd)), scale);
    out[2] = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(even, 1)), scale);
    out[3] = _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(odd, 1)), scale);
  }
  // A 64-byte line of FP8 codes: out[i] holds k = i of 16 channels.
  [[gnu::always_inline]] static void Fp8Line(const std::byte* line, F* out) {
    const auto* p = reinterpret_cast<const __m256i*>(line);
    __m256 first[4];
    __m256 second[4];
    HalfLine(_mm256_loadu_si256(p), first);
    HalfLine(_mm256_loadu_si256(p + 1), second);
    for (int i = 0; i < 4; ++i) out[i] = {first[i], second[i]};
  }
};

}  // namespace
}  // namespace octavo::internal
