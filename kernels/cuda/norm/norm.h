#pragma once

// RMSNorm and LayerNorm of rows on a GPU, and the codes of what they give. The formulas, the order
// of sums (lane sums) and the bits are those of kernels/norm.h; codes and scales have the bits that
// QuantizeTokens would give of the BF16 rows. A NaN stays some NaN.
//
// Nothing is added to a row here: a product that ends in the residual stream adds the residual in
// F32 before its one rounding (MatmulOps::finish), so that x is the stream as it stands.
//
// A block takes a row and holds it in shared memory. Rows do not depend on each other.

#include <cstdint>

#include "kernels/cuda/quantize/quantize.h"
#include "kernels/cuda/simt/grid.h"

namespace octavo::cuda {

enum class NormKind : uint8_t { kRms, kLayer };

// Row r of the result is the norm of row r of x, or of row source_rows[r] (the rows of a step whose
// logits are asked for). Codes are made where `codes` says so; `out` may then be null. x and out
// are [..][columns] BF16 without gaps; out may be x where source_rows is null.
struct NormRows {
  static constexpr int64_t kColumnsMax = 49152;  // what a block can hold
  NormKind kind = NormKind::kRms;
  const uint16_t* x = nullptr;
  const int32_t* source_rows = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  const uint16_t* weight = nullptr;  // [columns] BF16
  float eps = 0;
  uint16_t* out = nullptr;
  TokenCodes codes = {};
};
void Launch(const NormRows& call, simt::Stream stream);

}  // namespace octavo::cuda
