#pragma once

// The tables of serving kernels, one per instruction set, that <Op>OpsFor chooses from.

#include "kernels/activation.h"
#include "kernels/attention.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "kernels/softmax.h"

namespace octavo::internal {

// All elementwise and attention kernels of one instruction set.
struct ServingTwins {
  AttentionOps attention;
  NormOps norm;
  RopeOps rope;
  ActivationOps activation;
  SoftmaxOps softmax;
};

extern const MatmulOps kMatmulReference;
extern const ServingTwins kServingReference;
#if defined(__x86_64__)
extern const MatmulOps kMatmulAvx2;
extern const MatmulOps kMatmulAvx512;
extern const MatmulOps kMatmulAvx512Vbmi;  // with VBMI and VNNI
// The INT8 product of machines without VNNI.
void SumInt8Avx2(const PackedWeights& weights, const MatmulPart& part, const int8_t* x,
                 int64_t x_stride, int32_t* sums, int64_t sums_stride);
extern const ServingTwins kServingAvx2;
extern const ServingTwins kServingAvx512;
#endif

}  // namespace octavo::internal
