#pragma once

// Elementwise functions of BF16 rows on a GPU, and the codes of what they give. The formulas and
// the bits are those of kernels/activation.h; codes and scales have the bits that QuantizeTokens
// would give of the BF16 rows. A NaN stays some NaN.

#include <cstdint>

#include "kernels/cuda/quantize/quantize.h"
#include "kernels/cuda/simt/grid.h"

namespace octavo::cuda {

// The gated MLP's activation: out = BF16(BF16(silu(gate)) * up). Rows of gate and of up lie
// `stride` elements apart, so that one product may write both side by side; out and codes have no
// gaps. Codes are made where `codes` says so; `out` may then be null. `out` may be gate or up where
// they have no gaps. With one dynamic scale per row a block holds the row: kColumnsMax at most.
struct SiluMultiply {
  static constexpr int64_t kColumnsMax = 49152;
  const uint16_t* gate = nullptr;
  const uint16_t* up = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
  uint16_t* out = nullptr;
  TokenCodes codes = {};
};
void Launch(const SiluMultiply& call, simt::Stream stream);

// x beyond +-limit becomes BF16(+-limit), in place; rows lie `stride` elements apart, what is
// between them stays. REQUIRES a normal limit > 0.
struct Clip {
  uint16_t* x = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
  float limit = 0;
};
void Launch(const Clip& call, simt::Stream stream);

}  // namespace octavo::cuda
