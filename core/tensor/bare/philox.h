#pragma once

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011):
// random numbers as a function of a key and a counter, so that a draw never depends on what was
// drawn before.

#include <array>
#include <cstdint>

namespace octavo {

using PhiloxBlock = std::array<uint32_t, 4>;

[[gnu::always_inline]] inline constexpr PhiloxBlock Philox(PhiloxBlock counter,
                                                           std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

// Four words for (seed, position, stream): stream 0 is the sampler's.
[[gnu::always_inline]] inline constexpr PhiloxBlock PhiloxAt(uint64_t seed, uint64_t position,
                                                             uint32_t stream) {
  return Philox({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), stream, 0},
                {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

// Uniform in [0, 1): the upper 24 bits, exact in F32.
[[gnu::always_inline]] inline constexpr float UnitFloat(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

// Uniform in [0, bound): the upper half of the 128-bit product of bound and the first two words,
// the first one low. Values differ in probability by less than bound / 2^64. 0 for bound 0.
[[gnu::always_inline]] inline constexpr uint64_t UniformBelow(uint64_t bound, uint64_t seed,
                                                              uint64_t position, uint32_t stream) {
  const PhiloxBlock words = PhiloxAt(seed, position, stream);
  const uint64_t bits = uint64_t{words[1]} << 32 | words[0];
  return static_cast<uint64_t>(static_cast<unsigned __int128>(bits) * bound >> 64);
}

}  // namespace octavo
