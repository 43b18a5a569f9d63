#pragma once

// Quantizing on a GPU: maxima and histograms of magnitudes, casts to eight-bit codes, and codes of
// activations per token. The formulas and the bits are those of kernels/quantize.h and
// kernels/quantize_activation.h.
//
// Everything is in the GPU's memory. Matrices are row-major, `columns` elements a row without gaps.
// A call only launches; whoever owns the stream learns of errors there.

#include <cstdint>

#include "core/tensor/bare/scale.h"
#include "core/tensor/bare/source_type.h"
#include "kernels/cuda/simt/grid.h"

namespace octavo::cuda {

// maxima[row / tile_rows][column / tile_columns] becomes the F32 magnitude bits of the largest
// value of each tile; kF32InfBits or more where it holds a NaN or an infinity. One row, one column
// of tiles, or the whole matrix may be a tile. REQUIRES: maxima are zero before.
struct AmaxTiles {
  const void* source = nullptr;
  SourceType type = SourceType::kBf16;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t tile_rows = 1;
  int64_t tile_columns = 0;
  uint32_t* maxima = nullptr;
};
void Launch(const AmaxTiles& call, simt::Stream stream);

// counts[magnitude bits] += 1 for every BF16 value; 32,768 counters, the last of which count
// infinities and NaNs. Fewer than 2^32 values in all.
struct MagnitudeHistogram {
  static constexpr int kCounters = 32768;
  const uint16_t* source = nullptr;
  int64_t count = 0;
  uint32_t* counts = nullptr;
};
void Launch(const MagnitudeHistogram& call, simt::Stream stream);

// codes[row][column] = round(clamp(x / s)), s = scales[row / tile_rows][column / tile_columns]: one
// true F32 division. REQUIRES: as QuantizeOps::cast_row.
struct CastTiles {
  const void* source = nullptr;
  SourceType type = SourceType::kBf16;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t tile_rows = 1;
  int64_t tile_columns = 0;
  const float* scales = nullptr;
  CodeType code = CodeType::kFp8;
  int int8_min = -127;  // or -128; INT8 only
  uint8_t* codes = nullptr;
};
void Launch(const CastTiles& call, simt::Stream stream);

enum class TokenScales : uint8_t {
  kDynamicFp8,   // s = Fp8DynamicScale(amax of the row), codes fp8(x / s)
  kDynamicInt8,  // {s, f} = Int8DynamicScale(amax of the row), codes int8(x * f)
  kGroupsFp8,    // as kDynamicFp8, for every 128 columns
  kStaticFp8,    // codes fp8(x * factor)
  kStaticInt8,   // codes int8(x * factor)
};

// One row of BF16 is one token; fewer than 2^31 of them. `scales` gets one F32 a row, or
// ceil(columns / 128) with groups, nothing with static ones. `worst` becomes at least the largest
// magnitude's bits where one is no finite number (then the row's codes mean nothing), else it stays
// as it is; with static kinds it may be null, and nothing is looked for.
struct QuantizeTokens {
  TokenScales kind = TokenScales::kDynamicFp8;
  const uint16_t* x = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  float factor = 1;  // F32(1 / scale), static kinds only
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  uint32_t* worst = nullptr;
  // Rows sorted by expert, each expert with a factor of its own in place of `factor`: expert e has
  // the rows offsets[e] to offsets[e + 1]. Static kinds only; null: one factor for all.
  const float* expert_factors = nullptr;    // [experts]
  const int32_t* expert_offsets = nullptr;  // [experts + 1], ascending from 0 to `rows`
};
void Launch(const QuantizeTokens& call, simt::Stream stream);

// Where an operation that ends in rows of BF16 writes their codes itself: bits as if it wrote the
// rows and QuantizeTokens read them. No codes are made where `codes` is null. `worst` may be null,
// and static kinds look too where it is not.
struct TokenCodes {
  TokenScales kind = TokenScales::kDynamicFp8;
  float factor = 1;
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  uint32_t* worst = nullptr;
};

}  // namespace octavo::cuda
