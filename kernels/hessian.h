#pragma once

// Second moments of what a linear layer reads: h[i][j] += sum over tokens of x[token][i] *
// x[token][j], by the 32-block rule over the tokens in order (docs/numerics.md). Products of BF16
// are exact in F32. A product's factors may change places without a change of bits, so h is
// symmetric exactly and only its upper triangle is computed.

#include <cstdint>
#include <span>

#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

inline constexpr int64_t kHessianStripRows = 64;  // of h, in one call
inline constexpr int64_t kHessianTokens = 256;    // in one call; whole 32-blocks

// BF16 values: token t begins at x + t * stride.
struct HessianTokens {
  const uint16_t* x = nullptr;
  int64_t stride = 0;  // elements, at least `channels`
  int64_t count = 0;   // at most kHessianTokens
  int64_t channels = 0;
};

struct HessianOps {
  // Adds the tokens to rows [row_begin, row_end) of h, columns row_begin up to `channels` rounded
  // up to a multiple of 16 (the columns past `channels` hold 0 and get +0). Columns left of
  // row_begin are not touched; those between it and the diagonal are computed too. A count that is
  // not a multiple of 32 is padded with +0 and ends a leaf: nothing may be added after it.
  // REQUIRES: row_begin a multiple of 16, at most kHessianStripRows rows, row_end <= channels;
  // h_stride a multiple of 16 that holds the columns.
  void (*add)(const HessianTokens& tokens, int64_t row_begin, int64_t row_end, float* h,
              int64_t h_stride);
};

// The kernels of `isa`; the same bits for all. Callers hold an FpEnv. REQUIRES: IsSupported(isa).
const HessianOps& HessianOpsFor(Isa isa);

std::span<const KernelRow> HessianKernelRows();

}  // namespace octavo
