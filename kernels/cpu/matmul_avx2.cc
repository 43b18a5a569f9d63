// Products with AVX2, FMA and F16C.

#include <cstring>

#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/matmul_lanes.h"
#include "kernels/serving_twins.h"

namespace octavo::internal {

// One line holds 16 channels x 4 k; multiply-add of 16-bit pairs leaves two sums per channel.
void SumInt8Avx2(const PackedWeights& weights, const MatmulPart& part, const int8_t* x,
                 int64_t x_stride, int32_t* sums, int64_t sums_stride) {
  for (int64_t group = part.group_begin; group < part.group_end; ++group) {
    for (int64_t row = 0; row < part.rows; ++row) {
      __m256i pairs[4] = {};
      for (int64_t block = part.block_begin; block < part.block_end; ++block) {
        const std::byte* tile = weights.Tile(group, block);
        const int8_t* xs = x + row * x_stride + block * kTileDepth;
        for (int64_t line = 0; line < 8; ++line) {
          int32_t four = 0;
          std::memcpy(&four, xs + line * 4, 4);
          const __m256i a = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four)));
          for (int64_t i = 0; i < 4; ++i) {
            const __m256i w = _mm256_cvtepi8_epi16(
                _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile + line * 64 + i * 16)));
            pairs[i] = _mm256_add_epi32(pairs[i], _mm256_madd_epi16(a, w));
          }
        }
      }
      for (int64_t i = 0; i < 4; ++i) {
        alignas(32) uint32_t parts[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(parts), pairs[i]);
        int32_t* to = sums + row * sums_stride + (group - part.group_begin) * 16 + i * 4;
        for (int64_t c = 0; c < 4; ++c) {
          to[c] = static_cast<int32_t>(parts[2 * c] + parts[2 * c + 1]);
        }
      }
    }
  }
}

const MatmulOps kMatmulAvx2 = MatmulOpsOf<LanesAvx2>(SumInt8Avx2);

}  // namespace octavo::internal
