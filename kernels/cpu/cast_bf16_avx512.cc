// QuantizeOps::cast_row for BF16 sources in AVX-512: the cast that a checkpoint is made of. Only
// intrinsics and always-inline functions, as in quantize_avx512.cc.
//
// A vector of 32 BF16 values is taken apart into its even and its odd elements, which costs one
// shift and one mask instead of two conversions. Lanes of the sums come out as even and odd lanes;
// each still takes its elements in ascending order. Codes are made as magnitudes, four vectors are
// joined into 64 bytes, and the signs are applied to the bytes. Conversions to F64 read from a
// small buffer: a conversion from memory needs one unit, one from a register two.
//
// What is fetched ahead is the same place one row on: the quantizer looks for the maximum of the
// next row as soon as this one is cast.

#include <immintrin.h>

#include <cstring>

#include "core/tensor/bare/lane_sum.h"
#include "kernels/cpu/codes_avx512.h"
#include "kernels/quantize_twins.h"

namespace octavo {
namespace {

using namespace avx512;  // NOLINT: the codes of this instruction set

struct Figures {
  __m512d error[2];   // even and odd lanes of error^2
  __m512d source[2];  // of source^2
  __m512 max_error;
  uint64_t saturated;
};

// sums += x^2: elements 0..7 of `x` are the first eight of these lanes, 8..15 the next.
[[gnu::always_inline]] inline __m512d AddSquares(__m512 x, __m512d sum) {
  const __m512d first = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
  const __m512d second = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
  sum = _mm512_fmadd_pd(first, first, sum);
  return _mm512_fmadd_pd(second, second, sum);
}

// Codes of 16 magnitudes in the low bytes; the other bytes are arbitrary.
template <CodeType C, bool kFast>
[[gnu::always_inline]] inline __m512i CastMagnitudes(__m512 x, const Scale& scale, size_t odd,
                                                     Figures& figures) {
  const __m512 quotient = Quotient<kFast>(x, scale);
  const __m512 clamped = _mm512_min_ps(quotient, _mm512_set1_ps(CodeMax(C)));
  __m512i code;
  __m512 value;
  if constexpr (C == CodeType::kFp8) {
    const Fp8Rounded rounded = RoundToFp8(clamped);
    code = rounded.code_byte;
    value = rounded.value;
  } else {
    const __m512 shifted = _mm512_add_ps(clamped, _mm512_set1_ps(0x1p23f));
    code = _mm512_castps_si512(shifted);
    value = _mm512_sub_ps(shifted, _mm512_set1_ps(0x1p23f));
  }
  const __m512 error = _mm512_fmsub_ps(value, scale.value, x);
  figures.max_error =
      _mm512_range_ps(figures.max_error, error, 0x0b);  // larger magnitude, positive
  figures.error[odd] = AddSquares(error, figures.error[odd]);
  figures.source[odd] = AddSquares(x, figures.source[odd]);
  return code;
}

// 32 codes as bytes in the low halves of the 16 dwords; the other bytes are arbitrary.
template <CodeType C, bool kFast>
[[gnu::always_inline]] inline __m512i Cast32(__m512i words, const Scale& scale, Figures& figures) {
  const __m512i magnitudes = _mm512_and_si512(words, _mm512_set1_epi16(0x7fff));
  const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(magnitudes, 16));
  const __m512 odd = _mm512_castsi512_ps(
      _mm512_and_si512(magnitudes, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  const __m512i low = CastMagnitudes<C, kFast>(even, scale, 0, figures);
  const __m512i high = CastMagnitudes<C, kFast>(odd, scale, 1, figures);
  return Select(_mm512_set1_epi32(0xff), low, _mm512_slli_epi32(high, 8));
}

// 64 codes from two vectors of 32 values.
template <CodeType C, bool kFast>
[[gnu::always_inline]] inline __m512i Cast64(__m512i first, __m512i second, const Scale& scale,
                                             __m512i order, Figures& figures) {
  const __m512i a = Cast32<C, kFast>(first, scale, figures);
  const __m512i b = Cast32<C, kFast>(second, scale, figures);
  const __m512i joined = Select(_mm512_set1_epi32(0xffff), a, _mm512_slli_epi32(b, 16));
  const __m512i codes = _mm512_permutexvar_epi16(order, joined);
  const __m512i top = _mm512_set1_epi8(C == CodeType::kFp8 ? kFp8MaxCode : 127);
  figures.saturated +=
      static_cast<uint64_t>(__builtin_popcountll(_mm512_cmpeq_epi8_mask(codes, top)));
  const __mmask64 negative =
      (static_cast<__mmask64>(_mm512_movepi16_mask(second)) << 32) | _mm512_movepi16_mask(first);
  if constexpr (C == CodeType::kFp8) {
    return _mm512_mask_add_epi8(codes, negative, codes, _mm512_set1_epi8(-128));
  } else {
    return _mm512_mask_sub_epi8(codes, negative, _mm512_setzero_si512(), codes);
  }
}

// Even words first: the low halves hold the first 32 codes, the high halves the rest.
[[gnu::always_inline]] inline __m512i EvenWordsFirst() {
  alignas(64) uint16_t order[32];
  for (uint16_t i = 0; i < 32; ++i) order[i] = static_cast<uint16_t>(2 * (i % 16) + i / 16);
  return _mm512_load_si512(order);
}

template <CodeType C, bool kFast>
[[gnu::always_inline]] inline void CastRun(const char* at, size_t count, float scale_value,
                                           size_t ahead, uint8_t* codes, Figures& figures) {
  const Scale scale = {_mm512_set1_ps(scale_value), _mm512_set1_ps(1.0f / scale_value)};
  const __m512i order = EvenWordsFirst();
  Figures local = figures;
  size_t i = 0;
  for (; i + 64 <= count; i += 64) {
    const char* from = at + 2 * i;
    _mm_prefetch(from + ahead, _MM_HINT_T0);
    _mm_prefetch(from + ahead + 64, _MM_HINT_T0);
    const __m512i bytes = Cast64<C, kFast>(_mm512_loadu_si512(from), _mm512_loadu_si512(from + 64),
                                           scale, order, local);
    _mm512_storeu_si512(codes + i, bytes);
  }
  if (i < count) {
    const __mmask64 live = (__mmask64{1} << (count - i)) - 1;
    const char* from = at + 2 * i;
    const __m512i first = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(live), from);
    const __m512i second = _mm512_maskz_loadu_epi16(static_cast<__mmask32>(live >> 32), from + 64);
    _mm512_mask_storeu_epi8(codes + i, live, Cast64<C, kFast>(first, second, scale, order, local));
  }
  figures = local;
}

[[gnu::always_inline]] inline double Fold(const __m512d* sums) {
  alignas(64) double even[8];
  alignas(64) double odd[8];
  _mm512_store_pd(even, sums[0]);
  _mm512_store_pd(odd, sums[1]);
  double lanes[kLanes];
  for (size_t i = 0; i < 8; ++i) {
    lanes[2 * i] = even[i];
    lanes[2 * i + 1] = odd[i];
  }
  return FoldLanes(lanes);
}

template <CodeType C>
void CastCoded(const char* at, size_t columns, const float* scales, size_t group_columns,
               uint8_t* codes, CastFigures* out) {
  const __m512d zero = _mm512_setzero_pd();
  Figures figures = {{zero, zero}, {zero, zero}, _mm512_setzero_ps(), 0};
  for (size_t begin = 0; begin < columns; begin += group_columns) {
    const size_t count = columns - begin < group_columns ? columns - begin : group_columns;
    const float scale = *scales++;
    const char* run = at + 2 * begin;
    if (QuotientWithoutDivision<SourceType::kBf16>(scale)) {
      CastRun<C, true>(run, count, scale, 2 * columns, codes + begin, figures);
    } else {
      CastRun<C, false>(run, count, scale, 2 * columns, codes + begin, figures);
    }
  }
  out->squared_error = Fold(figures.error);
  out->squared_source = Fold(figures.source);
  out->max_abs_error = static_cast<double>(_mm512_reduce_max_ps(figures.max_error));
  out->saturated = figures.saturated;
}

}  // namespace

void CastRowBf16Avx512(const void* source, size_t columns, const float* scales,
                       size_t group_columns, CodeType code, uint8_t* codes, CastFigures* figures) {
  const char* at = static_cast<const char*>(source);
  if (code == CodeType::kFp8) {
    return CastCoded<CodeType::kFp8>(at, columns, scales, group_columns, codes, figures);
  }
  CastCoded<CodeType::kInt8>(at, columns, scales, group_columns, codes, figures);
}

}  // namespace octavo
