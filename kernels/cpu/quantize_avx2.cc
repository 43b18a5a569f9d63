// kernels/quantize.h and kernels/quantize_activation.h in AVX2, FMA, F16C. The methods, and why
// they are exact, are those of quantize_avx512.cc, on 16 elements as two vectors of 8; a ragged end
// is copied into a padded block of 16.
//
// Nothing but intrinsics and always-inline functions here: no symbol of this file that is compiled
// for AVX2 can be shared with other files.

#include <immintrin.h>

#include <cstring>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/lane_sum.h"
#include "kernels/cpu/codes_avx2.h"
#include "kernels/quantize_twins.h"

namespace octavo {
namespace {

using namespace avx2;  // NOLINT: the codes of this instruction set

// The low bytes of two times 8 codes, in order.
inline __m128i Pack16(__m256i low, __m256i high) {
  const __m256i byte = _mm256_set1_epi32(0xff);
  const __m256i words =
      _mm256_packus_epi32(_mm256_and_si256(low, byte), _mm256_and_si256(high, byte));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
  return _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
}

// ---- Maxima ----

uint32_t Amax(const void* source, SourceType type, size_t count) {
  const char* at = static_cast<const char*>(source);
  const size_t bytes = count * ByteSize(type);
  const bool wide = type == SourceType::kF32;
  const __m256i mask = wide ? _mm256_set1_epi32(0x7fffffff) : _mm256_set1_epi16(0x7fff);
  __m256i top[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
  const auto take = [&](__m256i& into, const char* from) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    const __m256i magnitude = _mm256_and_si256(x, mask);
    into = wide ? _mm256_max_epu32(into, magnitude) : _mm256_max_epu16(into, magnitude);
  };
  size_t i = 0;
  for (; i + 128 <= bytes; i += 128) {
#pragma GCC unroll 4
    for (size_t k = 0; k < 4; ++k) take(top[k], at + i + 32 * k);
  }
  for (; i + 32 <= bytes; i += 32) take(top[0], at + i);
  if (i < bytes) take(top[1], Padded(at + i, bytes - i).bytes);
  alignas(32) uint32_t words[32];
  for (size_t k = 0; k < 4; ++k) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(words + 8 * k), top[k]);
  }
  uint32_t amax = 0;
  for (const uint32_t word : words) {
    if (wide) {
      amax = MergeAmax(amax, word);
    } else {
      amax = MergeAmax(amax, MergeAmax(word & 0xffffu, word >> 16));
    }
  }
  if (wide) return MagnitudeBitsOfF32(amax);
  const uint16_t half = static_cast<uint16_t>(amax);
  return type == SourceType::kF16 ? MagnitudeBitsOfF16(half) : MagnitudeBitsOfBf16(half);
}

// ---- Casts ----

struct Figures {
  __m256d error[4];   // lanes 0..3, 4..7, 8..11, 12..15 of error^2
  __m256d source[4];  // of source^2
  __m256 max_error;
  __m256i saturated;
};

inline void AddSquares(__m256 x, __m256d* sums) {
  const __m256d low = _mm256_cvtps_pd(_mm256_castps256_ps128(x));
  const __m256d high = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
  sums[0] = _mm256_fmadd_pd(low, low, sums[0]);
  sums[1] = _mm256_fmadd_pd(high, high, sums[1]);
}

// Codes of 8 elements, and their figures in lanes 8*half and up.
template <CodeType C, bool kFast>
inline __m256i Cast8(__m256 x, const Scale& scale, __m256 negative_limit, size_t half,
                     Figures& figures) {
  const __m256 magnitude = Magnitude(x);
  const __m256 quotient = Quotient<kFast>(magnitude, scale);
  Coded coded;
  if constexpr (C == CodeType::kFp8) {
    coded = EncodeFp8(quotient);
  } else {
    coded = EncodeInt8(quotient, x, negative_limit);
  }
  const __m256 saturated = _mm256_cmp_ps(coded.magnitude, _mm256_set1_ps(CodeMax(C)), _CMP_GE_OQ);
  figures.saturated = _mm256_sub_epi32(figures.saturated, _mm256_castps_si256(saturated));
  const __m256 error = _mm256_fmsub_ps(coded.magnitude, scale.value, magnitude);
  figures.max_error = _mm256_max_ps(figures.max_error, Magnitude(error));
  AddSquares(error, figures.error + 2 * half);
  AddSquares(x, figures.source + 2 * half);
  return C == CodeType::kFp8 ? WithFp8Sign(coded.code, x) : coded.code;
}

template <SourceType T, CodeType C, bool kFast>
inline void CastRun(const char* at, size_t count, float scale_value, float negative_limit,
                    uint8_t* codes, Figures& figures) {
  const Scale scale = {_mm256_set1_ps(scale_value), _mm256_set1_ps(1.0f / scale_value)};
  const __m256 limit = _mm256_set1_ps(negative_limit);
  constexpr size_t kBytes = ByteSize(T);
  Figures local = figures;
  const auto sixteen = [&](const char* from) {
    const __m256i low = Cast8<C, kFast>(Load8<T>(from), scale, limit, 0, local);
    const __m256i high = Cast8<C, kFast>(Load8<T>(from + 8 * kBytes), scale, limit, 1, local);
    return Pack16(low, high);
  };
  size_t i = 0;
  for (; i + 16 <= count; i += 16) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), sixteen(at + i * kBytes));
  }
  if (i < count) {
    const Padded padded(at + i * kBytes, (count - i) * kBytes);
    alignas(16) uint8_t block[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(block), sixteen(padded.bytes));
    memcpy(codes + i, block, count - i);
  }
  figures = local;
}

inline double Fold(const __m256d* sums) {
  double lanes[kLanes];
  for (size_t k = 0; k < 4; ++k) _mm256_storeu_pd(lanes + 4 * k, sums[k]);
  return FoldLanes(lanes);
}

template <SourceType T, CodeType C>
void CastTyped(const char* at, size_t columns, const float* scales, size_t group_columns,
               float negative_limit, uint8_t* codes, CastFigures* out) {
  const __m256d zero = _mm256_setzero_pd();
  Figures figures = {{zero, zero, zero, zero},
                     {zero, zero, zero, zero},
                     _mm256_setzero_ps(),
                     _mm256_setzero_si256()};
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
  float errors[8];
  uint32_t counts[8];
  _mm256_storeu_ps(errors, figures.max_error);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(counts), figures.saturated);
  float max_error = 0;
  uint64_t saturated = 0;
  for (size_t k = 0; k < 8; ++k) {
    max_error = errors[k] > max_error ? errors[k] : max_error;
    saturated += counts[k];
  }
  out->max_abs_error = static_cast<double>(max_error);
  out->saturated = saturated;
}

void CastRow(const void* source, SourceType type, size_t columns, const float* scales,
             size_t group_columns, CastRule rule, uint8_t* codes, CastFigures* figures) {
  if (rule.quotient != Quotient::kExact) {
    return kQuantizeReference.cast_row(source, type, columns, scales, group_columns, rule, codes,
                                       figures);
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

// Turns blocks of 16 values into 16 elements of `Out` with `block(from, to)`.
template <typename Out, typename Block>
inline void ForEach16(const uint16_t* x, size_t count, Out* out, Block block) {
  size_t i = 0;
  for (; i + 16 <= count; i += 16) block(reinterpret_cast<const char*>(x + i), out + i);
  if (i < count) {
    const Padded padded(reinterpret_cast<const char*>(x + i), (count - i) * 2);
    Out last[16];
    block(padded.bytes, last);
    memcpy(out + i, last, (count - i) * sizeof(Out));
  }
}

// 16 codes of x by `quotient` (of a magnitude).
template <typename MakeQuotient>
inline __m128i Fp8Codes(const char* from, MakeQuotient quotient) {
  const __m256 low = Load8<kB>(from);
  const __m256 high = Load8<kB>(from + 16);
  return Pack16(WithFp8Sign(EncodeFp8(quotient(Magnitude(low))).code, low),
                WithFp8Sign(EncodeFp8(quotient(Magnitude(high))).code, high));
}

template <bool kFast>
inline void Fp8DivideRun(const uint16_t* x, size_t count, float scale_value, uint8_t* codes) {
  const Scale scale = {_mm256_set1_ps(scale_value), _mm256_set1_ps(1.0f / scale_value)};
  ForEach16(x, count, codes, [&](const char* from, uint8_t* to) {
    const __m128i packed = Fp8Codes(from, [&](__m256 v) { return Quotient<kFast>(v, scale); });
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), packed);
  });
}

void Fp8Divide(const uint16_t* x, size_t count, float scale, uint8_t* codes) {
  if (QuotientWithoutDivision<kB>(scale)) return Fp8DivideRun<true>(x, count, scale, codes);
  Fp8DivideRun<false>(x, count, scale, codes);
}

// `to_units` turns magnitudes into units of the scale.
template <typename ToUnits>
inline void Fp8Bf16Run(const uint16_t* x, size_t count, uint16_t* values, ToUnits to_units) {
  ForEach16(x, count, values, [&](const char* from, uint16_t* to) {
    __m256i bits[2];
#pragma GCC unroll 2
    for (size_t half = 0; half < 2; ++half) {
      const __m256 v = Load8<kB>(from + 16 * half);
      const Coded coded = EncodeFp8(to_units(Magnitude(v)));
      bits[half] =
          _mm256_srli_epi32(_mm256_castps_si256(_mm256_or_ps(coded.magnitude, SignOf(v))), 16);
    }
    const __m256i packed = _mm256_packus_epi32(bits[0], bits[1]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute4x64_epi64(packed, 0xd8));
  });
}

void Fp8DivideBf16(const uint16_t* x, size_t count, float scale, uint16_t* values) {
  const Scale by = {_mm256_set1_ps(scale), _mm256_set1_ps(1.0f / scale)};
  if (QuotientWithoutDivision<kB>(scale)) {
    return Fp8Bf16Run(x, count, values, [&](__m256 v) { return Quotient<true>(v, by); });
  }
  Fp8Bf16Run(x, count, values, [&](__m256 v) { return Quotient<false>(v, by); });
}

void Fp8Multiply(const uint16_t* x, size_t count, float factor, uint8_t* codes) {
  const __m256 by = _mm256_set1_ps(factor);
  ForEach16(x, count, codes, [&](const char* from, uint8_t* to) {
    const __m128i packed = Fp8Codes(from, [&](__m256 v) { return _mm256_mul_ps(v, by); });
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), packed);
  });
}

void Fp8MultiplyBf16(const uint16_t* x, size_t count, float factor, uint16_t* values) {
  const __m256 by = _mm256_set1_ps(factor);
  Fp8Bf16Run(x, count, values, [&](__m256 v) { return _mm256_mul_ps(v, by); });
}

void Int8Multiply(const uint16_t* x, size_t count, float factor, int8_t* codes) {
  const __m256 by = _mm256_set1_ps(factor);
  const __m256 limit = _mm256_set1_ps(kInt8Max);
  ForEach16(x, count, codes, [&](const char* from, int8_t* to) {
    const __m256 low = Load8<kB>(from);
    const __m256 high = Load8<kB>(from + 16);
    const __m128i packed = Pack16(EncodeInt8(_mm256_mul_ps(Magnitude(low), by), low, limit).code,
                                  EncodeInt8(_mm256_mul_ps(Magnitude(high), by), high, limit).code);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), packed);
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

const QuantizeOps kQuantizeAvx2 = {Amax, CastRow, GridErrorsRowAvx2};
const QuantizeActivationOps kQuantizeActivationAvx2 = {
    AmaxBf16, Fp8Divide, Fp8DivideBf16, Fp8Multiply, Fp8MultiplyBf16, Int8Multiply, Fp8GroupsBf16};

}  // namespace octavo
