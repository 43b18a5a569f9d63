// kernels/probe.h in AVX2. Only intrinsics, as in quantize_avx2.cc.

#include <immintrin.h>

#include "kernels/probe_twins.h"

namespace octavo {
namespace {

// Sixteen registers hold twelve chains and two constants.
constexpr int kChains = 12;

uint64_t ReadStreams(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  const size_t stream = bytes / kProbeStreams;
  __m256i sums[kProbeStreams];
#pragma GCC unroll 16
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (size_t i = 0; i < stream; i += 64) {
#pragma GCC unroll 16
    for (size_t s = 0; s < kProbeStreams; ++s) {
      const char* from = at + s * stream + i;
      const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
      const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32));
      sums[s] = _mm256_xor_si256(sums[s], _mm256_xor_si256(low, high));
    }
  }
#pragma GCC unroll 16
  for (size_t s = 1; s < kProbeStreams; ++s) sums[0] = _mm256_xor_si256(sums[0], sums[s]);
  uint64_t words[256 / 64];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(words), sums[0]);
  uint64_t sum = 0;
  for (const uint64_t word : words) sum ^= word;
  return sum;
}

float MultiplyAdd(uint64_t rounds) {
  __m256 chains[kChains];
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) {
    chains[c] = _mm256_set1_ps(static_cast<float>(c));
  }
  const __m256 factor = _mm256_set1_ps(0.999f);
  const __m256 term = _mm256_set1_ps(0.5f);
  for (uint64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kChains; ++c) chains[c] = _mm256_fmadd_ps(chains[c], factor, term);
  }
  float values[256 / 32];
  float sum = 0;
#pragma GCC unroll 16
  for (int c = 0; c < kChains; ++c) {
    _mm256_storeu_ps(values, chains[c]);
    for (const float value : values) sum += value;
  }
  return sum;
}

}  // namespace

const ProbeOps kProbeAvx2 = {ReadStreams, MultiplyAdd, 2 * kChains*(256 / 32)};

}  // namespace octavo
