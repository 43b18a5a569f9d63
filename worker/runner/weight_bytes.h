#pragma once

// How much of a model a rank holds, by how it is stored.

#include <cstdint>

namespace octavo {

// Bytes of matrices as packed for the kernels, and of the embedding. Norms, biases and scales,
// which are few, do not count.
struct WeightBytes {
  uint64_t bf16 = 0;
  uint64_t fp8 = 0;
  uint64_t int8 = 0;

  uint64_t all() const { return bf16 + fp8 + int8; }
  WeightBytes& operator+=(const WeightBytes& other) {
    bf16 += other.bf16;
    fp8 += other.fp8;
    int8 += other.int8;
    return *this;
  }
  bool operator==(const WeightBytes&) const = default;
};

}  // namespace octavo
