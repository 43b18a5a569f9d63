#pragma once

// What the tests of serving kernels share: random inputs, all instruction sets of this machine,
// comparison of bits.

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/tensor/bare/float_bits.h"
#include "gtest/gtest.h"
#include "kernels/isa.h"
#include "kernels/serving_twins.h"

namespace octavo {

inline std::vector<uint16_t> RandomBf16(std::mt19937_64& random, int64_t count, float spread) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<uint16_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back(Bf16FromF32(normal(random)));
  return out;
}

struct NamedOps {
  std::string name;
  const MatmulOps* matmul;
  const internal::ServingTwins* serving;
};

// Every instruction set but the reference that this machine runs.
inline std::vector<NamedOps> Twins() {
  std::vector<NamedOps> out;
#if defined(__x86_64__)
  if (IsSupported(Isa::kAvx2)) {
    out.push_back({"avx2", &internal::kMatmulAvx2, &internal::kServingAvx2});
  }
  if (IsSupported(Isa::kAvx512)) {
    out.push_back({"avx512", &internal::kMatmulAvx512, &internal::kServingAvx512});
    out.push_back({"chosen", &MatmulOpsFor(Isa::kAvx512), &internal::kServingAvx512});
  }
#endif
  return out;
}

template <typename T>
void ExpectSameBits(const std::vector<T>& got, const std::vector<T>& want,
                    const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  EXPECT_EQ(std::memcmp(got.data(), want.data(), got.size() * sizeof(T)), 0) << what;
}

}  // namespace octavo
