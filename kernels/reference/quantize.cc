// The specification of kernels/quantize.h and kernels/quantize_activation.h.

#include "kernels/quantize.h"

#include <cmath>
#include <cstring>

#include "core/tensor/bare/amax.h"
#include "core/tensor/bare/error_power.h"
#include "core/tensor/bare/lane_sum.h"
#include "kernels/quantize_activation.h"
#include "kernels/quantize_twins.h"

namespace octavo {
namespace {

// Element `index`, subnormal F32 values as zero.
float Load(const void* source, SourceType type, size_t index) {
  const char* at = static_cast<const char*>(source) + index * ByteSize(type);
  if (type == SourceType::kF32) {
    uint32_t bits;
    std::memcpy(&bits, at, sizeof(bits));
    return FlushSubnormal(FloatFromBits(bits));
  }
  uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return type == SourceType::kF16 ? F32FromF16(bits) : FlushSubnormal(F32FromBf16(bits));
}

struct Coded {
  uint8_t code;
  float value;  // what the code stands for, in units of the scale
  bool saturated;
};

float RoundTo(SourceType type, float value) {
  if (type == SourceType::kF32) return value;
  return type == SourceType::kF16 ? F32FromF16(F16FromF32(value)) : F32FromBf16(Bf16FromF32(value));
}

// What becomes a code.
float QuotientOf(float x, float scale, SourceType type, CastRule rule) {
  if (rule.quotient == Quotient::kByReciprocal) {
    return RoundTo(type, FlushSubnormal(x * RoundTo(type, 1.0f / scale)));
  }
  const float quotient = FlushSubnormal(x / scale);
  return rule.quotient == Quotient::kExact ? quotient : RoundTo(type, quotient);
}

Coded Encode(float quotient, CastRule rule) {
  if (rule.code == CodeType::kFp8) {
    const uint8_t code = Fp8FromF32(quotient);
    return {code, F32FromFp8(code), (code & 0x7f) == kFp8MaxCode};
  }
  const int8_t code = Int8FromF32(quotient, rule.int8_min);
  return {static_cast<uint8_t>(code), static_cast<float>(code), code == 127 || code <= -127};
}

// One rounding; a subnormal result is a zero, as in an FpEnv.
float Error(float value, float scale, float x) {
  return FlushSubnormal(std::fma(value, scale, -x));
}

uint32_t Amax(const void* source, SourceType type, size_t count) {
  uint32_t amax = 0;
  for (size_t i = 0; i < count; ++i) {
    const float value = Load(source, type, i);
    amax = MergeAmax(amax, MagnitudeBitsOfF32(BitsOf(value)));
  }
  return amax;
}

void CastRow(const void* source, SourceType type, size_t columns, const float* scales,
             size_t group_columns, CastRule rule, uint8_t* codes, CastFigures* figures) {
  LaneSum<double> squared_error;
  LaneSum<double> squared_source;
  double max_abs_error = 0;
  uint64_t saturated = 0;
  for (size_t j = 0; j < columns; ++j) {
    const float x = Load(source, type, j);
    const float scale = scales[j / group_columns];
    const Coded coded = Encode(QuotientOf(x, scale, type, rule), rule);
    codes[j] = coded.code;
    saturated += coded.saturated ? 1 : 0;
    const double error = static_cast<double>(Error(coded.value, scale, x));
    double& error_lane = squared_error.lanes[j % kLanes];
    error_lane = std::fma(error, error, error_lane);
    double& source_lane = squared_source.lanes[j % kLanes];
    source_lane = std::fma(static_cast<double>(x), static_cast<double>(x), source_lane);
    const double magnitude = std::fabs(error);
    max_abs_error = magnitude > max_abs_error ? magnitude : max_abs_error;
  }
  *figures = {squared_error.Fold(), squared_source.Fold(), max_abs_error, saturated};
}

void GridErrorsRow(const void* source, SourceType type, size_t columns, const float* scales,
                   size_t points, CastRule rule, double* errors) {
  for (size_t p = 0; p < points; ++p) {
    LaneSum<double> sum;
    for (size_t j = 0; j < columns; ++j) {
      const float quotient = QuotientOf(Load(source, type, j), scales[p], type, rule);
      const float error = std::fabs(Encode(quotient, rule).value - quotient);
      sum.Add(j, static_cast<double>(ErrorPower(error)));
    }
    errors[p] = sum.Fold() * ErrorPowerOfScale(scales[p]);
  }
}

// ---- Activations ----

uint32_t AmaxBf16(const uint16_t* x, size_t count) { return Amax(x, SourceType::kBf16, count); }

void Fp8Divide(const uint16_t* x, size_t count, float scale, uint8_t* codes) {
  for (size_t i = 0; i < count; ++i) {
    codes[i] = Fp8FromF32(Load(x, SourceType::kBf16, i) / scale);
  }
}

void Fp8DivideBf16(const uint16_t* x, size_t count, float scale, uint16_t* values) {
  for (size_t i = 0; i < count; ++i) {
    values[i] = Bf16FromFp8(Fp8FromF32(Load(x, SourceType::kBf16, i) / scale));
  }
}

void Fp8Multiply(const uint16_t* x, size_t count, float factor, uint8_t* codes) {
  for (size_t i = 0; i < count; ++i) {
    codes[i] = Fp8FromF32(Load(x, SourceType::kBf16, i) * factor);
  }
}

void Fp8MultiplyBf16(const uint16_t* x, size_t count, float factor, uint16_t* values) {
  for (size_t i = 0; i < count; ++i) {
    values[i] = Bf16FromFp8(Fp8FromF32(Load(x, SourceType::kBf16, i) * factor));
  }
}

void Int8Multiply(const uint16_t* x, size_t count, float factor, int8_t* codes) {
  for (size_t i = 0; i < count; ++i) {
    codes[i] = Int8FromF32(Load(x, SourceType::kBf16, i) * factor);
  }
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

const QuantizeOps kQuantizeReference = {Amax, CastRow, GridErrorsRow};
const QuantizeActivationOps kQuantizeActivationReference = {
    AmaxBf16, Fp8Divide, Fp8DivideBf16, Fp8Multiply, Fp8MultiplyBf16, Int8Multiply, Fp8GroupsBf16};

size_t FindNonFinite(const void* source, SourceType type, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (!IsFiniteAmax(BitsOf(Load(source, type, i)) & kF32MagnitudeMask)) return i;
  }
  return count;
}

}  // namespace octavo
