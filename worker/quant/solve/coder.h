#pragma once

// How one weight becomes what is stored and back: eight-bit codes under given scales, or a value of
// the weight's own type where a matrix is pruned and not quantized.

#include <bit>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/scale.h"
#include "worker/quant/quantizer.h"

namespace octavo {

struct Coder {
  std::optional<CodeType> code;  // nothing: values of `source`
  int int8_min = kInt8CodeMin;
  // Codes are made again from what they stand for, in the source's type (CompatMode.solves).
  bool saved_again = false;
  SourceType source = SourceType::kBf16;
  // One per group of elements; row / group_rows, then channel / group_columns. 1 without codes.
  std::vector<float> scales;
  int64_t group_rows = 1;
  int64_t group_columns = 1;
  int64_t groups_per_row = 1;

  size_t GroupOf(int64_t row, int64_t channel) const {
    return static_cast<size_t>(row / group_rows * groups_per_row + channel / group_columns);
  }
  // Bytes of one stored element.
  int64_t ByteSize() const { return code ? 1 : static_cast<int64_t>(octavo::ByteSize(source)); }

  // The nearest: w rounded to F32, divided by the scale in F32, clamped and rounded; or w rounded
  // to F32 and then to the weight's type. REQUIRES: an FpEnv; w not a NaN.
  uint32_t Encode(double w, float scale) const {
    const auto x = static_cast<float>(w);
    if (code == CodeType::kFp8) return Fp8FromF32(x / scale);
    if (code == CodeType::kInt8) return std::bit_cast<uint8_t>(Int8FromF32(x / scale, int8_min));
    if (source == SourceType::kF32) return BitsOf(x);
    return source == SourceType::kBf16 ? Bf16FromF32(x) : F16FromF32(x);
  }
  // What is written for bits that Encode gave: themselves, or their code made again. REQUIRES: an
  // FpEnv.
  uint32_t Saved(uint32_t bits, float scale) const {
    if (!saved_again) return bits;
    const float weight = InSource(Value(bits) * scale);
    return std::bit_cast<uint8_t>(Int8FromF32(InSource(weight / scale), int8_min));
  }
  // Rounded to the source's type.
  float InSource(float x) const {
    if (source == SourceType::kF32) return x;
    return source == SourceType::kBf16 ? F32FromBf16(Bf16FromF32(x)) : F32FromF16(F16FromF32(x));
  }
  // What stored bits stand for in units of the scale, exact.
  float Value(uint32_t bits) const {
    if (code == CodeType::kFp8) return F32FromFp8(static_cast<uint8_t>(bits));
    if (code == CodeType::kInt8) return std::bit_cast<int8_t>(static_cast<uint8_t>(bits));
    if (source == SourceType::kF32) return FlushSubnormal(FloatFromBits(bits));
    const auto half = static_cast<uint16_t>(bits);
    return source == SourceType::kBf16 ? FlushSubnormal(F32FromBf16(half)) : F32FromF16(half);
  }
};

// The coder of codes whose scales lie in `scales` as Quantizer::Quantize writes them.
Coder CoderOfScales(const QuantizeRule& rule, const WeightRows& rows,
                    std::span<const std::byte> scales);
// The coder of values.
Coder CoderOfValues(const WeightRows& rows);

// Element (row, channel) of a weight, F32 subnormals as zero.
float SourceAt(const WeightRows& rows, int64_t row, int64_t channel);

// Stored element `index` of `stored`.
uint32_t LoadStored(const Coder& coder, std::span<const std::byte> stored, int64_t index);
void StoreStored(const Coder& coder, uint32_t bits, std::span<std::byte> stored, int64_t index);

}  // namespace octavo
