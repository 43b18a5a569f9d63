// QuantizeOps::grid_errors_row in AVX2. Only intrinsics and always-inline functions, as in
// quantize_avx2.cc.

#include <immintrin.h>

#include "core/tensor/bare/error_power.h"
#include "core/tensor/bare/lane_sum.h"
#include "kernels/cpu/codes_avx2.h"
#include "kernels/cpu/grid_errors_rows.h"
#include "kernels/quantize_twins.h"

namespace octavo {
namespace {

using namespace avx2;  // NOLINT: the codes of this instruction set

// ErrorPower on 8 lanes: the same operations in the same order.
inline __m256 ErrorPower8(__m256 d) {
  const __m256 counts = _mm256_cmp_ps(d, _mm256_set1_ps(kErrorPowerMin), _CMP_GE_OQ);
  const __m256i bits = _mm256_castps_si256(_mm256_min_ps(d, _mm256_set1_ps(kErrorPowerMax)));
  const __m256i shifted = _mm256_add_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(3));
  const __m256i quotient =
      _mm256_srli_epi32(_mm256_mullo_epi16(shifted, _mm256_set1_epi32(205)), 10);
  const __m256i rest =
      _mm256_sub_epi32(shifted, _mm256_mullo_epi16(quotient, _mm256_set1_epi32(5)));
  const __m256i mantissa = _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x007fffff)),
                                           _mm256_set1_epi32(0x3f800000));
  const __m256 u = _mm256_sub_ps(_mm256_castsi256_ps(mantissa), _mm256_set1_ps(1.5f));
  __m256 p = _mm256_set1_ps(kErrorPowerC[7]);
#pragma GCC unroll 8
  for (int k = 6; k >= 0; --k) p = _mm256_fmadd_ps(p, u, _mm256_set1_ps(kErrorPowerC[k]));
  const __m256 table = _mm256_setr_ps(kErrorPowerTable[0], kErrorPowerTable[1], kErrorPowerTable[2],
                                      kErrorPowerTable[3], kErrorPowerTable[4], 0, 0, 0);
  const __m256 value = _mm256_mul_ps(p, _mm256_permutevar8x32_ps(table, rest));
  const __m256i power =
      _mm256_sub_epi32(_mm256_slli_epi32(_mm256_mullo_epi16(quotient, _mm256_set1_epi32(12)), 23),
                       _mm256_set1_epi32((12 * 26) << 23));
  return _mm256_and_ps(counts,
                       _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), power)));
}

template <CodeType C, bool kFast>
inline __m256 Term8(__m256 x, const Scale& scale, __m256 negative_limit) {
  const __m256 quotient = Quotient<kFast>(Magnitude(x), scale);
  __m256 value;
  if constexpr (C == CodeType::kFp8) {
    value = EncodeFp8(quotient).magnitude;
  } else {
    value = EncodeInt8(quotient, x, negative_limit).magnitude;
  }
  return ErrorPower8(Magnitude(_mm256_sub_ps(value, quotient)));
}

template <SourceType T, CodeType C, bool kFast>
double RowError(const char* at, size_t columns, float scale_value, float negative_limit) {
  const Scale scale = {_mm256_set1_ps(scale_value), _mm256_set1_ps(1.0f / scale_value)};
  const __m256 limit = _mm256_set1_ps(negative_limit);
  __m256d sums[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(),
                     _mm256_setzero_pd()};
  const auto add16 = [&](const char* from) {
#pragma GCC unroll 2
    for (size_t half = 0; half < 2; ++half) {
      const __m256 term = Term8<C, kFast>(Load8<T>(from + 8 * half * ByteSize(T)), scale, limit);
      __m256d* to = sums + 2 * half;
      to[0] = _mm256_add_pd(to[0], _mm256_cvtps_pd(_mm256_castps256_ps128(term)));
      to[1] = _mm256_add_pd(to[1], _mm256_cvtps_pd(_mm256_extractf128_ps(term, 1)));
    }
  };
  size_t i = 0;
  for (; i + 16 <= columns; i += 16) add16(at + i * ByteSize(T));
  if (i < columns) {
    const Padded padded(at + i * ByteSize(T), (columns - i) * ByteSize(T));
    add16(padded.bytes);
  }
  double lanes[kLanes];
  for (size_t k = 0; k < 4; ++k) _mm256_storeu_pd(lanes + 4 * k, sums[k]);
  return FoldLanes(lanes) * ErrorPowerOfScale(scale_value);
}

struct Row {
  template <SourceType T, CodeType C, bool kFast>
  static double Error(const char* at, size_t columns, float scale, float negative_limit) {
    return RowError<T, C, kFast>(at, columns, scale, negative_limit);
  }
};

}  // namespace

void GridErrorsRowAvx2(const void* source, SourceType type, size_t columns, const float* scales,
                       size_t points, CastRule rule, double* errors) {
  internal::GridErrorsOf<Row>(source, type, columns, scales, points, rule, errors);
}

}  // namespace octavo
