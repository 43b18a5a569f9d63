// QuantizeOps::grid_errors_row in AVX-512. Only intrinsics and always-inline functions, as in
// quantize_avx512.cc.

#include <immintrin.h>

#include "core/tensor/bare/error_power.h"
#include "core/tensor/bare/lane_sum.h"
#include "kernels/cpu/codes_avx512.h"
#include "kernels/cpu/grid_errors_rows.h"
#include "kernels/quantize_twins.h"

namespace octavo {
namespace {

using namespace avx512;  // NOLINT: the codes of this instruction set

// ErrorPower on 16 lanes: the same operations in the same order.
inline __m512 ErrorPower16(__m512 d) {
  const __mmask16 counts = _mm512_cmp_ps_mask(d, _mm512_set1_ps(kErrorPowerMin), _CMP_GE_OQ);
  const __m512i bits = _mm512_castps_si512(_mm512_min_ps(d, _mm512_set1_ps(kErrorPowerMax)));
  const __m512i shifted = _mm512_add_epi32(_mm512_srli_epi32(bits, 23), _mm512_set1_epi32(3));
  const __m512i quotient =
      _mm512_srli_epi32(_mm512_mullo_epi16(shifted, _mm512_set1_epi32(205)), 10);
  const __m512i rest =
      _mm512_sub_epi32(shifted, _mm512_mullo_epi16(quotient, _mm512_set1_epi32(5)));
  const __m512i mantissa = _mm512_ternarylogic_epi32(
      bits, _mm512_set1_epi32(0x007fffff), _mm512_set1_epi32(0x3f800000), 0xea);  // (a & b) | c
  const __m512 u = _mm512_sub_ps(_mm512_castsi512_ps(mantissa), _mm512_set1_ps(1.5f));
  __m512 p = _mm512_set1_ps(kErrorPowerC[7]);
#pragma GCC unroll 8
  for (int k = 6; k >= 0; --k) p = _mm512_fmadd_ps(p, u, _mm512_set1_ps(kErrorPowerC[k]));
  const __m512 table =
      _mm512_setr_ps(kErrorPowerTable[0], kErrorPowerTable[1], kErrorPowerTable[2],
                     kErrorPowerTable[3], kErrorPowerTable[4], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m512 value = _mm512_mul_ps(p, _mm512_permutexvar_ps(rest, table));
  // 12 * (quotient - 26) added to the exponent.
  const __m512i power =
      _mm512_sub_epi32(_mm512_slli_epi32(_mm512_mullo_epi16(quotient, _mm512_set1_epi32(12)), 23),
                       _mm512_set1_epi32((12 * 26) << 23));
  return _mm512_castsi512_ps(_mm512_maskz_add_epi32(counts, _mm512_castps_si512(value), power));
}

template <CodeType C, bool kFast>
inline __m512 Term16(__m512 x, const Scale& scale, __m512 negative_limit) {
  const __m512 quotient = Quotient<kFast>(Magnitude(x), scale);
  __m512 value;
  if constexpr (C == CodeType::kFp8) {
    value = EncodeFp8(quotient).magnitude;
  } else {
    value = EncodeInt8(quotient, x, negative_limit).magnitude;
  }
  return ErrorPower16(Magnitude(_mm512_sub_ps(value, quotient)));
}

template <SourceType T, CodeType C, bool kFast>
double RowError(const char* at, size_t columns, float scale_value, float negative_limit) {
  const Scale scale = {_mm512_set1_ps(scale_value), _mm512_set1_ps(1.0f / scale_value)};
  const __m512 limit = _mm512_set1_ps(negative_limit);
  __m512d low = _mm512_setzero_pd();
  __m512d high = _mm512_setzero_pd();
  const auto add = [&](__m512 x) {
    const __m512 term = Term16<C, kFast>(x, scale, limit);
    low = _mm512_add_pd(low, _mm512_cvtps_pd(_mm512_castps512_ps256(term)));
    high = _mm512_add_pd(high, _mm512_cvtps_pd(_mm512_extractf32x8_ps(term, 1)));
  };
  size_t i = 0;
  for (; i + 16 <= columns; i += 16) add(Load16<T>(at + i * ByteSize(T)));
  if (i < columns) add(LoadTail<T>(at + i * ByteSize(T), columns - i));
  double lanes[kLanes];
  _mm512_storeu_pd(lanes, low);
  _mm512_storeu_pd(lanes + 8, high);
  return FoldLanes(lanes) * ErrorPowerOfScale(scale_value);
}

struct Row {
  template <SourceType T, CodeType C, bool kFast>
  static double Error(const char* at, size_t columns, float scale, float negative_limit) {
    return RowError<T, C, kFast>(at, columns, scale, negative_limit);
  }
};

}  // namespace

void GridErrorsRowAvx512(const void* source, SourceType type, size_t columns, const float* scales,
                         size_t points, CastRule rule, double* errors) {
  internal::GridErrorsOf<Row>(source, type, columns, scales, points, rule, errors);
}

}  // namespace octavo
