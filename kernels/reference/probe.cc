// kernels/probe.h in plain C++.

#include <cstring>

#include "kernels/probe_twins.h"

namespace octavo {
namespace {

uint64_t ReadStreams(const void* data, size_t bytes) {
  const char* at = static_cast<const char*>(data);
  const size_t stream = bytes / kProbeStreams;
  uint64_t sums[kProbeStreams] = {};
  for (size_t i = 0; i < stream; i += 64) {
    for (size_t s = 0; s < kProbeStreams; ++s) {
      uint64_t words[8];
      std::memcpy(words, at + s * stream + i, sizeof(words));
      for (const uint64_t word : words) sums[s] ^= word;
    }
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum ^= part;
  return sum;
}

float MultiplyAdd(uint64_t rounds) {
  float chains[kProbeFmaChains];
  for (int c = 0; c < kProbeFmaChains; ++c) chains[c] = static_cast<float>(c);
  for (uint64_t i = 0; i < rounds; ++i) {
    for (float& chain : chains) chain = chain * 0.999f + 0.5f;
  }
  float sum = 0;
  for (const float chain : chains) sum += chain;
  return sum;
}

}  // namespace

const ProbeOps kProbeReference = {ReadStreams, MultiplyAdd, 2 * kProbeFmaChains};

}  // namespace octavo
