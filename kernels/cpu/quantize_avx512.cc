// kernels/quantize.h and kernels/quantize_activation.h in AVX-512 F, BW, VL, DQ.
//
// Nothing but intrinsics and always-inline functions here: no symbol of this file that is compiled
// for AVX-512 can be shared with other files.

#include <immintrin.h>

#include <cstring>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/lane_sum.h"
#include "kernels/cpu/codes_avx512.h"
#include "kernels/quantize_twins.h"

namespace octavo {
namespace {

using namespace avx512;  // NOLINT: the codes of this instruction set

// The low bytes of four times 16 codes, in order.
inline __m512i Pack64(const __m512i* codes) {
  const __m512i byte = _mm512_set1_epi32(0xff);
  const __m512i ab =
      _mm512_packus_epi32(_mm512_and_si512(codes[0], byte), _mm512_and_si512(codes[1], byte));
  const __m512i cd =
      _mm512_packus_epi32(_mm512_and_si512(codes[2], byte), _mm512_and_si512(codes[3], byte));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(ab, cd));
}

// ---- Maxima ----

inline uint32_t AmaxF32(const char* at, size_t count) {
  const __m512i mask = _mm512_set1_epi32(0x7fffffff);
  __m512i top[4] = {};
  size_t i = 0;
  for (; i + 64 <= count; i += 64) {
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; ++k) {
      const __m512i x = _mm512_loadu_si512(at + (i + 16 * k) * 4);
      top[k] = _mm512_max_epu32(top[k], _mm512_and_si512(x, mask));
    }
  }
  for (; i < count; i += 16) {
    const __mmask16 live =
        count - i >= 16 ? 0xffff : static_cast<__mmask16>((1u << (count - i)) - 1);
    const __m512i x = _mm512_maskz_loadu_epi32(live, at + i * 4);
    top[0] = _mm512_max_epu32(top[0], _mm512_and_si512(x, mask));
  }
  const __m512i all =
      _mm512_max_epu32(_mm512_max_epu32(top[0], top[1]), _mm512_max_epu32(top[2], top[3]));
  return MagnitudeBitsOfF32(_mm512_reduce_max_epu32(all));
}

inline uint32_t AmaxHalf(const char* at, size_t count) {
  const __m512i mask = _mm512_set1_epi16(0x7fff);
  __m512i top[4] = {};
  size_t i = 0;
  for (; i + 128 <= count; i += 128) {
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; ++k) {
      const __m512i x = _mm512_loadu_si512(at + (i + 32 * k) * 2);
      top[k] = _mm512_max_epu16(top[k], _mm512_and_si512(x, mask));
    }
  }
  for (; i < count; i += 32) {
    const __mmask32 live =
        count - i >= 32 ? 0xffffffffu : static_cast<__mmask32>((1u << (count - i)) - 1);
    const __m512i x = _mm512_maskz_loadu_epi16(live, at + i * 2);
    top[0] = _mm512_max_epu16(top[0], _mm512_and_si512(x, mask));
  }
  const __m512i all =
      _mm512_max_epu16(_mm512_max_epu16(top[0], top[1]), _mm512_max_epu16(top[2], top[3]));
  const __m512i wide = _mm512_max_epu32(_mm512_srli_epi32(all, 16),
                                        _mm512_and_si512(all, _mm512_set1_epi32(0xffff)));
  return _mm512_reduce_max_epu32(wide);
}

uint32_t Amax(const void* source, SourceType type, size_t count) {
  const char* at = static_cast<const char*>(source);
  if (type == SourceType::kF32) return AmaxF32(at, count);
  const uint16_t top = static_cast<uint16_t>(AmaxHalf(at, count));
  return type == SourceType::kF16 ? MagnitudeBitsOfF16(top) : MagnitudeBitsOfBf16(top);
}

// ---- Casts ----

struct Figures {
  __m512d error[2];   // lanes 0..7 and 8..15 of error^2
  __m512d source[2];  // of source^2
  __m512 max_error;
  __m512i saturated;
};

inline void AddSquares(__m512 x, __m512d* sums) {
  const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
  const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
  sums[0] = _mm512_fmadd_pd(low, low, sums[0]);
  sums[1] = _mm512_fmadd_pd(high, high, sums[1]);
}

// Codes of 16 elements, and their figures.
template <CodeType C, bool kFast>
inline __m512i Cast16(__m512 x, const Scale& scale, __m512 negative_limit, Figures& figures) {
  const __m512 magnitude = Magnitude(x);
  const __m512 quotient = Quotient<kFast>(magnitude, scale);
  Coded coded;
  if constexpr (C == CodeType::kFp8) {
    coded = EncodeFp8(quotient);
  } else {
    coded = EncodeInt8(quotient, x, negative_limit);
  }
  const __m512 top = _mm512_set1_ps(CodeMax(C));
  const __mmask16 saturated = _mm512_cmp_ps_mask(coded.magnitude, top, _CMP_GE_OQ);
  figures.saturated =
      _mm512_mask_add_epi32(figures.saturated, saturated, figures.saturated, _mm512_set1_epi32(1));
  const __m512 error = _mm512_fmsub_ps(coded.magnitude, scale.value, magnitude);
  figures.max_error = _mm512_max_ps(figures.max_error, Magnitude(error));
  AddSquares(error, figures.error);
  AddSquares(x, figures.source);
  return C == CodeType::kFp8 ? WithFp8Sign(coded.code, x) : coded.code;
}

// Elements under one scale.
template <SourceType T, CodeType C, bool kFast>
inline void CastRun(const char* at, size_t count, float scale_value, float negative_limit,
                    uint8_t* codes, Figures& figures) {
  const Scale scale = {_mm512_set1_ps(scale_value), _mm512_set1_ps(1.0f / scale_value)};
  const __m512 limit = _mm512_set1_ps(negative_limit);
  constexpr size_t kBytes = ByteSize(T);
  Figures local = figures;
  size_t i = 0;
  for (; i + 64 <= count; i += 64) {
    __m512i four[4];
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; ++k) {
      four[k] = Cast16<C, kFast>(Load16<T>(at + (i + 16 * k) * kBytes), scale, limit, local);
    }
    _mm512_storeu_si512(codes + i, Pack64(four));
  }
  for (; i < count; i += 16) {
    const size_t live = count - i < 16 ? count - i : 16;
    const __m512 x = live == 16 ? Load16<T>(at + i * kBytes) : LoadTail<T>(at + i * kBytes, live);
    const __m128i bytes = _mm512_cvtepi32_epi8(Cast16<C, kFast>(x, scale, limit, local));
    _mm_mask_storeu_epi8(codes + i, static_cast<__mmask16>((1u << live) - 1), bytes);
  }
  figures = local;
}

inline double Fold(const __m512d* sums) {
  double lanes[kLanes];
  _mm512_storeu_pd(lanes, sums[0]);
  _mm512_storeu_pd(lanes + 8, sums[1]);
  return FoldLanes(lanes);
}

template <SourceType T, CodeType C>
void CastTyped(const char* at, size_t columns, const float* scales, size_t group_columns,
               float negative_limit, uint8_t* codes, CastFigures* out) {
  const __m512d zero = _mm512_setzero_pd();
  Figures figures = {{zero, zero}, {zero, zero}, _mm512_setzero_ps(), _mm512_setzero_si512()};
  for (size_t begin = 0; begin < columns; begin += group_columns) {
    const size_t count = columns - begin < group_columns ? columns - begin : group_columns;
    const float scale = *scales++;
    const char* run = at + begin * ByteSize(T);
    if (QuotientWithoutDivision<T>(scale)) {
      CastRun<T, C, true>(run, count, scale, negative_limit, codes + begin, figures);
    } else {
      CastRun<T, C, false>(run, count, scale, negative_limit, codes + begin, figures);
    }
  }
  out->squared_error = Fold(figures.error);
  out->squared_source = Fold(figures.source);
  out->max_abs_error = static_cast<double>(_mm512_reduce_max_ps(figures.max_error));
  out->saturated = static_cast<uint32_t>(_mm512_reduce_add_epi32(figures.saturated));
}

void CastRow(const void* source, SourceType type, size_t columns, const float* scales,
             size_t group_columns, CastRule rule, uint8_t* codes, CastFigures* figures) {
  if (rule.quotient != Quotient::kExact) {
    return kQuantizeReference.cast_row(source, type, columns, scales, group_columns, rule, codes,
                                       figures);
  }
  if (type == SourceType::kBf16 && (rule.code == CodeType::kFp8 || rule.int8_min == -127)) {
    return CastRowBf16Avx512(source, columns, scales, group_columns, rule.code, codes, figures);
  }
  const char* at = static_cast<const char*>(source);
  const float limit = static_cast<float>(-rule.int8_min);
  const auto run = [&](auto fp8, auto int8) {
    (rule.code == CodeType::kFp8 ? fp8 : int8)(at, columns, scales, group_columns, limit, codes,
                                               figures);
  };
  switch (type) {
    case SourceType::kBf16:
      return run(CastTyped<SourceType::kBf16, CodeType::kFp8>,
                 CastTyped<SourceType::kBf16, CodeType::kInt8>);
    case SourceType::kF16:
      return run(CastTyped<SourceType::kF16, CodeType::kFp8>,
                 CastTyped<SourceType::kF16, CodeType::kInt8>);
    case SourceType::kF32:
      return run(CastTyped<SourceType::kF32, CodeType::kFp8>,
                 CastTyped<SourceType::kF32, CodeType::kInt8>);
  }
}

// ---- Activations ----

constexpr SourceType kB = SourceType::kBf16;

uint32_t AmaxBf16(const uint16_t* x, size_t count) { return Amax(x, kB, count); }

// Calls `emit(index, live, x)` for every run of 16 elements.
template <typename Emit>
inline void ForEach16(const uint16_t* x, size_t count, Emit emit) {
  const char* at = reinterpret_cast<const char*>(x);
  size_t i = 0;
  for (; i + 16 <= count; i += 16) emit(i, static_cast<__mmask16>(0xffff), Load16<kB>(at + i * 2));
  if (i < count) {
    const __mmask16 live = static_cast<__mmask16>((1u << (count - i)) - 1);
    emit(i, live, LoadTail<kB>(at + i * 2, count - i));
  }
}

// `to_units` turns magnitudes into units of the scale.
template <typename ToUnits>
inline void Fp8Run(const uint16_t* x, size_t count, uint8_t* codes, ToUnits to_units) {
  ForEach16(x, count, [&](size_t i, __mmask16 live, __m512 v) {
    const Coded coded = EncodeFp8(to_units(Magnitude(v)));
    _mm_mask_storeu_epi8(codes + i, live, _mm512_cvtepi32_epi8(WithFp8Sign(coded.code, v)));
  });
}

// The numbers that the codes stand for.
template <typename ToUnits>
inline void Fp8Run(const uint16_t* x, size_t count, uint16_t* values, ToUnits to_units) {
  ForEach16(x, count, [&](size_t i, __mmask16 live, __m512 v) {
    const Coded coded = EncodeFp8(to_units(Magnitude(v)));
    const __m512i bits = _mm512_castps_si512(WithSignOf(coded.magnitude, v));
    _mm256_mask_storeu_epi16(values + i, live, _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
  });
}

template <typename Out>
inline void Fp8DivideInto(const uint16_t* x, size_t count, float scale, Out* out) {
  const Scale by = {_mm512_set1_ps(scale), _mm512_set1_ps(1.0f / scale)};
  if (QuotientWithoutDivision<kB>(scale)) {
    return Fp8Run(x, count, out, [&](__m512 v) { return Quotient<true>(v, by); });
  }
  Fp8Run(x, count, out, [&](__m512 v) { return Quotient<false>(v, by); });
}

void Fp8Divide(const uint16_t* x, size_t count, float scale, uint8_t* codes) {
  Fp8DivideInto(x, count, scale, codes);
}

void Fp8DivideBf16(const uint16_t* x, size_t count, float scale, uint16_t* values) {
  Fp8DivideInto(x, count, scale, values);
}

void Fp8Multiply(const uint16_t* x, size_t count, float factor, uint8_t* codes) {
  const __m512 by = _mm512_set1_ps(factor);
  Fp8Run(x, count, codes, [&](__m512 v) { return _mm512_mul_ps(v, by); });
}

void Fp8MultiplyBf16(const uint16_t* x, size_t count, float factor, uint16_t* values) {
  const __m512 by = _mm512_set1_ps(factor);
  Fp8Run(x, count, values, [&](__m512 v) { return _mm512_mul_ps(v, by); });
}

void Int8Multiply(const uint16_t* x, size_t count, float factor, int8_t* codes) {
  const __m512 by = _mm512_set1_ps(factor);
  const __m512 limit = _mm512_set1_ps(kInt8Max);
  ForEach16(x, count, [&](size_t i, __mmask16 live, __m512 v) {
    const Coded coded = EncodeInt8(_mm512_mul_ps(Magnitude(v), by), v, limit);
    _mm_mask_storeu_epi8(codes + i, live, _mm512_cvtepi32_epi8(coded.code));
  });
}

bool Fp8GroupsBf16(const uint16_t* x, size_t count, float* scales, uint16_t* values) {
  for (size_t begin = 0; begin < count; begin += kActivationGroup) {
    const size_t size = count - begin < kActivationGroup ? count - begin : kActivationGroup;
    const uint32_t amax = AmaxBf16(x + begin, size);
    if (!IsFiniteAmax(amax)) return false;
    const float scale = Fp8DynamicScale(amax);
    scales[begin / kActivationGroup] = scale;
    Fp8DivideBf16(x + begin, size, scale, values + begin);
  }
  return true;
}

}  // namespace

const QuantizeOps kQuantizeAvx512 = {Amax, CastRow, GridErrorsRowAvx512};
const QuantizeActivationOps kQuantizeActivationAvx512 = {
    AmaxBf16, Fp8Divide, Fp8DivideBf16, Fp8Multiply, Fp8MultiplyBf16, Int8Multiply, Fp8GroupsBf16};

}  // namespace octavo
