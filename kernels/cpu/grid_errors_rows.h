#pragma once

// From a call of QuantizeOps::grid_errors_row to the function that sums the errors of one row under
// one scale, for the source's type and the code's. Included by one file per instruction set; `Row`
// is local to that file, and so is everything made from it here.

#include <cstddef>

#include "kernels/cpu/quotient.h"
#include "kernels/quantize_twins.h"

namespace octavo::internal {

// Row::Error<T, C, kFast>(at, columns, scale, negative_limit): kFast where the quotient by this
// scale needs no division.
template <class Row, SourceType T, CodeType C>
void TypedGridErrors(const char* at, size_t columns, const float* scales, size_t points,
                     float negative_limit, double* errors) {
  for (size_t p = 0; p < points; ++p) {
    errors[p] = GridQuotientWithoutDivision<T>(scales[p])
                    ? Row::template Error<T, C, true>(at, columns, scales[p], negative_limit)
                    : Row::template Error<T, C, false>(at, columns, scales[p], negative_limit);
  }
}

template <class Row, SourceType T>
void CodedGridErrors(const char* at, size_t columns, const float* scales, size_t points,
                     CastRule rule, double* errors) {
  const float limit = static_cast<float>(-rule.int8_min);
  if (rule.code == CodeType::kFp8) {
    return TypedGridErrors<Row, T, CodeType::kFp8>(at, columns, scales, points, limit, errors);
  }
  TypedGridErrors<Row, T, CodeType::kInt8>(at, columns, scales, points, limit, errors);
}

template <class Row>
void GridErrorsOf(const void* source, SourceType type, size_t columns, const float* scales,
                  size_t points, CastRule rule, double* errors) {
  if (rule.quotient != Quotient::kExact) {
    return kQuantizeReference.grid_errors_row(source, type, columns, scales, points, rule, errors);
  }
  const char* at = static_cast<const char*>(source);
  switch (type) {
    case SourceType::kBf16:
      return CodedGridErrors<Row, SourceType::kBf16>(at, columns, scales, points, rule, errors);
    case SourceType::kF16:
      return CodedGridErrors<Row, SourceType::kF16>(at, columns, scales, points, rule, errors);
    case SourceType::kF32:
      return CodedGridErrors<Row, SourceType::kF32>(at, columns, scales, points, rule, errors);
  }
}

}  // namespace octavo::internal
