#pragma once

// Quantizing activations at run time, from their BF16 values (one row is one token).
//
//   dynamic FP8    amax of the row -> s = Fp8DynamicScale(amax), q = fp8(x / s): a true division
//   dynamic INT8   amax of the row -> {s, f} = Int8DynamicScale(amax), q = int8(x * f): a product
//   groups of 128  the FP8 formula over each run of 128 elements (the caller's row starts at an
//                  absolute multiple of 128; the last run may be short)
//   static         q = fp8(x * F32(1/s)) or int8(x * F32(1/s))
//
// A row that is spread over ranks gets its amax as the maximum over all ranks before it is cast.
// Every instruction set gives the same bits; callers hold an FpEnv. Rows of any length and
// alignment.

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/tensor/bare/scale.h"
#include "kernels/isa.h"
#include "kernels/table.h"

namespace octavo {

inline constexpr size_t kActivationGroup = 128;

struct QuantizeActivationOps {
  // F32 magnitude bits of the largest of `count` BF16 values, subnormals as 0; kF32InfBits or more
  // where a NaN or an infinity is among them.
  uint32_t (*amax)(const uint16_t* x, size_t count);

  // codes[j] = Fp8FromF32(x[j] / scale).
  void (*fp8_divide)(const uint16_t* x, size_t count, float scale, uint8_t* codes);
  // The same codes, written as the BF16 numbers that they stand for (the operands of the product).
  void (*fp8_divide_bf16)(const uint16_t* x, size_t count, float scale, uint16_t* values);

  // codes[j] = Fp8FromF32(x[j] * factor), for static scales.
  void (*fp8_multiply)(const uint16_t* x, size_t count, float factor, uint8_t* codes);
  // The same codes, written as the BF16 numbers that they stand for.
  void (*fp8_multiply_bf16)(const uint16_t* x, size_t count, float factor, uint16_t* values);
  // codes[j] = Int8FromF32(x[j] * factor), codes -127..127.
  void (*int8_multiply)(const uint16_t* x, size_t count, float factor, int8_t* codes);

  // One FP8 scale per run of kActivationGroup elements: writes ceil(count/128) scales and the codes
  // as BF16 numbers. Returns false, with what it wrote undefined, where a value is not finite.
  bool (*fp8_groups_bf16)(const uint16_t* x, size_t count, float* scales, uint16_t* values);
};

// The kernels of `isa`. REQUIRES: IsSupported(isa).
const QuantizeActivationOps& QuantizeActivationOpsFor(Isa isa);

std::span<const KernelRow> QuantizeActivationKernelRows();

}  // namespace octavo
