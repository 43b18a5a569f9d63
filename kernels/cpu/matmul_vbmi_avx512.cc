// Products with AVX-512 VBMI (FP8 codes decoded by table) and VNNI (INT8).

#include <cstring>

#include "core/tensor/bare/fp8.h"
#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/matmul_lanes.h"
#include "kernels/serving_twins.h"

namespace octavo::internal {
namespace {

// Low and high byte of the BF16 number of each of the 128 magnitudes.
struct CodeTables {
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];
  constexpr CodeTables() : low(), high() {
    for (int code = 0; code < 128; ++code) {
      const uint32_t bits = BitsOf(F32FromFp8(static_cast<uint8_t>(code))) >> 16;
      low[code] = static_cast<uint8_t>(bits & 0xff);
      high[code] = static_cast<uint8_t>(bits >> 8);
    }
  }
};
constexpr CodeTables kTables;

struct LanesVbmi : LanesAvx512 {
  [[gnu::always_inline]] static void Fp8Line(const std::byte* line, F* out) {
    const __m512i codes = _mm512_loadu_si512(line);
    const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(kTables.low), codes,
                                                 _mm512_load_si512(kTables.low + 64));
    const __m512i magnitude = _mm512_permutex2var_epi8(_mm512_load_si512(kTables.high), codes,
                                                       _mm512_load_si512(kTables.high + 64));
    // magnitude | (codes & 0x80)
    const __m512i high = _mm512_ternarylogic_epi32(magnitude, codes,
                                                   _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
    SplitPairs(_mm512_unpacklo_epi8(low, high), &out[0], &out[1]);
    SplitPairs(_mm512_unpackhi_epi8(low, high), &out[2], &out[3]);
  }
};

// Rows [0, Rows) by Groups groups; x is shifted to unsigned and the shift taken out at the end.
// `First`: nobody has read these weights yet.
template <int Rows, int Groups, bool First>
void Int8Tile(const PackedWeights& weights, int64_t group, const MatmulPart& part, const int8_t* x,
              int64_t x_stride, int32_t* sums, int64_t sums_stride) {
  __m512i acc[Rows][Groups];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) acc[r][g] = _mm512_setzero_si512();
  }
  const __m512i shift = _mm512_set1_epi8(static_cast<char>(0x80));
  for (int64_t block = part.block_begin; block < part.block_end; ++block) {
    const std::byte* tiles[Groups];
#pragma GCC unroll 8
    for (int g = 0; g < Groups; ++g) tiles[g] = weights.Tile(group + g, block);
    for (int64_t line = 0; line < 8; ++line) {
      __m512i w[Groups];
#pragma GCC unroll 8
      for (int g = 0; g < Groups; ++g) {
        if constexpr (First) __builtin_prefetch(tiles[g] + line * 64 + kPrefetchBytes);
        w[g] = _mm512_loadu_si512(tiles[g] + line * 64);
      }
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) {
        const __m128i four = _mm_loadu_si32(x + r * x_stride + block * kTileDepth + line * 4);
        const __m512i a = _mm512_xor_si512(_mm512_broadcastd_epi32(four), shift);
#pragma GCC unroll 8
        for (int g = 0; g < Groups; ++g) acc[r][g] = _mm512_dpbusd_epi32(acc[r][g], a, w[g]);
      }
    }
  }
#pragma GCC unroll 8
  for (int g = 0; g < Groups; ++g) {
    const __m512i shifted =
        _mm512_slli_epi32(_mm512_loadu_si512(weights.channel_sums + (group + g) * 16), 7);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      _mm512_storeu_si512(sums + r * sums_stride + g * 16, _mm512_sub_epi32(acc[r][g], shifted));
    }
  }
}

// The first `rows` <= Rows rows.
template <int Rows, int Groups, bool First>
void Int8UpTo(int64_t rows, const PackedWeights& weights, int64_t group, const MatmulPart& part,
              const int8_t* x, int64_t x_stride, int32_t* sums, int64_t sums_stride) {
  if constexpr (Rows > 1) {
    if (rows < Rows) {
      return Int8UpTo<Rows - 1, Groups, First>(rows, weights, group, part, x, x_stride, sums,
                                               sums_stride);
    }
  }
  Int8Tile<Rows, Groups, First>(weights, group, part, x, x_stride, sums, sums_stride);
}

// All rows, in passes of as equal numbers as can be, of at most four.
template <int Groups>
void Int8Rows(const PackedWeights& weights, int64_t group, const MatmulPart& part, const int8_t* x,
              int64_t x_stride, int32_t* sums, int64_t sums_stride) {
  constexpr int kRows = 4;
  const int64_t passes = (part.rows + kRows - 1) / kRows;
  int64_t row = 0;
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t rows = (part.rows - row) / (passes - pass);
    const auto run = pass == 0 ? Int8UpTo<kRows, Groups, true> : Int8UpTo<kRows, Groups, false>;
    run(rows, weights, group, part, x + row * x_stride, x_stride, sums + row * sums_stride,
        sums_stride);
    row += rows;
  }
}

void SumInt8(const PackedWeights& weights, const MatmulPart& part, const int8_t* x,
             int64_t x_stride, int32_t* sums, int64_t sums_stride) {
  int64_t group = part.group_begin;
  for (; group + 4 <= part.group_end; group += 4) {
    Int8Rows<4>(weights, group, part, x, x_stride, sums + (group - part.group_begin) * 16,
                sums_stride);
  }
  for (; group < part.group_end; ++group) {
    Int8Rows<1>(weights, group, part, x, x_stride, sums + (group - part.group_begin) * 16,
                sums_stride);
  }
}

}  // namespace

const MatmulOps kMatmulAvx512Vbmi = MatmulOpsOf<LanesVbmi>(SumInt8);

}  // namespace octavo::internal
