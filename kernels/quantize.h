#pragma once

// Quantizing weights: magnitude maxima, casts to eight-bit codes with error figures, and the error
// sums of the MSE grid. Sources are BF16, F16 or F32 rows in memory, of any alignment and length.
//
// Every instruction set gives the same bits; reference/quantize.cc is the specification. Callers
// hold an FpEnv (core/tensor/bare/fp_env.h).

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/tensor/bare/scale.h"
#include "core/tensor/bare/source_type.h"
#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

// How far the values that the codes stand for lie from the source values, over some elements:
// error = fma(code, scale, -source) in F32; squares and sums in F64.
struct CastFigures {
  double squared_error = 0;   // lane sum of error^2 (each term added by one fused multiply-add)
  double squared_source = 0;  // lane sum of source^2 (likewise)
  double max_abs_error = 0;
  uint64_t saturated = 0;  // codes of the largest magnitude (448; 127, and -128 where allowed)
};

// How one row is cast. Column j uses scales[j / group_columns].
struct CastRule {
  CodeType code = CodeType::kFp8;
  int int8_min = -127;  // or -128; INT8 only
  // Other than kExact, what tools do that compute in the model's type: plain code on every
  // instruction set, for byte parity, not for speed.
  Quotient quotient = Quotient::kExact;
};

struct QuantizeOps {
  // F32 bits of the largest magnitude of `count` values; F32 subnormals count as 0. A result of
  // kF32InfBits or more says that a NaN or an infinity is among them; 0 for count 0.
  uint32_t (*amax)(const void* source, SourceType type, size_t count);

  // One row: code = round(clamp(fl(x / s))), one F32 division by the stored scale (or
  // rule.quotient). `group_columns` is a multiple of 16 or >= columns. Writes `columns` codes (INT8
  // as its byte) and the row's figures. REQUIRES: finite sources; scales finite, >= 2^-126.
  void (*cast_row)(const void* source, SourceType type, size_t columns, const float* scales,
                   size_t group_columns, CastRule rule, uint8_t* codes, CastFigures* figures);

  // What the MSE search compares: errors[p] = sum of |code * scales[p] - x|^2.4 over the row, for
  // `points` scales, computed in units of the scale:
  //   F64 lane sum of ErrorPower(|value(code) - fl(x / scales[p])|), times ErrorPowerOfScale.
  // Codes as cast_row makes them. REQUIRES: as cast_row, and |x / scale| < 2^100.
  void (*grid_errors_row)(const void* source, SourceType type, size_t columns, const float* scales,
                          size_t points, CastRule rule, double* errors);
};

// The kernels of `isa`. REQUIRES: IsSupported(isa).
const QuantizeOps& QuantizeOpsFor(Isa isa);

// Index of the first NaN or infinity; `count` where there is none. Plain code: the road to an
// error message.
size_t FindNonFinite(const void* source, SourceType type, size_t count);

std::span<const KernelRow> QuantizeKernelRows();

}  // namespace octavo
