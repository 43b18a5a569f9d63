#pragma once

// The twins behind kernels/quantize.h and kernels/quantize_activation.h, one set per instruction
// set; for kernels/quantize.cc and the files that define them only.

#include "kernels/quantize.h"
#include "kernels/quantize_activation.h"

namespace octavo {

void GridErrorsRowAvx2(const void* source, SourceType type, size_t columns, const float* scales,
                       size_t points, CastRule rule, double* errors);
void GridErrorsRowAvx512(const void* source, SourceType type, size_t columns, const float* scales,
                         size_t points, CastRule rule, double* errors);

// cast_row of AVX-512 for BF16 sources and codes of symmetric range.
void CastRowBf16Avx512(const void* source, size_t columns, const float* scales,
                       size_t group_columns, CodeType code, uint8_t* codes, CastFigures* figures);

extern const QuantizeOps kQuantizeReference;
extern const QuantizeOps kQuantizeAvx2;
extern const QuantizeOps kQuantizeAvx512;
extern const QuantizeActivationOps kQuantizeActivationReference;
extern const QuantizeActivationOps kQuantizeActivationAvx2;
extern const QuantizeActivationOps kQuantizeActivationAvx512;

}  // namespace octavo
