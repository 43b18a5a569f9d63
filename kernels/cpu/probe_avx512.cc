// kernels/probe.h in AVX-512. Only intrinsics, as in quantize_avx512.cc.

#include <immintrin.h>

#include "kernels/probe_twins.h"

namespace octavo {
namespace {

uint64_t ReadStreams(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  const size_t stream = bytes / kProbeStreams;
  __m512i sums[kProbeStreams];
#pragma GCC unroll 16
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (size_t i = 0; i < stream; i += 64) {
#pragma GCC unroll 16
    for (size_t s = 0; s < kProbeStreams; ++s) {
      const char* from = at + s * stream + i;
      sums[s] = _mm512_xor_si512(sums[s], _mm512_loadu_si512(from));
    }
  }
#pragma GCC unroll 16
  for (size_t s = 1; s < kProbeStreams; ++s) sums[0] = _mm512_xor_si512(sums[0], sums[s]);
  uint64_t words[512 / 64];
  _mm512_storeu_si512(words, sums[0]);
  uint64_t sum = 0;
  for (const uint64_t word : words) sum ^= word;
  return sum;
}

float MultiplyAdd(uint64_t rounds) {
  __m512 chains[kProbeFmaChains];
#pragma GCC unroll 16
  for (int c = 0; c < kProbeFmaChains; ++c) {
    chains[c] = _mm512_set1_ps(static_cast<float>(c));
  }
  const __m512 factor = _mm512_set1_ps(0.999f);
  const __m512 term = _mm512_set1_ps(0.5f);
  for (uint64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kProbeFmaChains; ++c) chains[c] = _mm512_fmadd_ps(chains[c], factor, term);
  }
  float values[512 / 32];
  float sum = 0;
#pragma GCC unroll 16
  for (int c = 0; c < kProbeFmaChains; ++c) {
    _mm512_storeu_ps(values, chains[c]);
    for (const float value : values) sum += value;
  }
  return sum;
}

}  // namespace

const ProbeOps kProbeAvx512 = {ReadStreams, MultiplyAdd, 2 * kProbeFmaChains*(512 / 32)};

}  // namespace octavo
