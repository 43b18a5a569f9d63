// Weights under the compatibility modes that compute in BF16, against arithmetic in F64 with a
// rounding wherever the tool has one.

#include "core/scheme/compat.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "gtest/gtest.h"
#include "worker/quant/quantizer.h"

namespace octavo {
namespace {

// Rounded to nearest even with `bits` bits of significand.
double RoundTo(double x, int bits) {
  if (x == 0) return x;
  int exponent;
  const double mantissa = std::frexp(x, &exponent);
  return std::ldexp(std::nearbyint(std::ldexp(mantissa, bits)), exponent - bits);
}

// F32 arithmetic whose result is rounded to BF16.
double Bf16(double value) { return RoundTo(RoundTo(value, 24), 8); }

// The value of the FP8 code of a BF16 number.
double Fp8(double value) {
  const double clamped = std::clamp(value, -448.0, 448.0);
  if (std::abs(clamped) >= 0x1p-6) return RoundTo(clamped, 4);
  return std::nearbyint(clamped * 512) / 512;
}

// Every BF16 number up to `amax` in magnitude, the rest zeros.
std::vector<uint16_t> AllNumbersUpTo(float amax) {
  std::vector<uint16_t> weights(1 << 16, 0);
  for (uint32_t bits = 0; bits < weights.size(); ++bits) {
    if (std::abs(F32FromBf16(static_cast<uint16_t>(bits))) <= amax) {
      weights[bits] = static_cast<uint16_t>(bits);
    }
  }
  return weights;
}

struct Output {
  std::vector<std::byte> codes;
  double scale = 0;
  v1::PieceReport report;
};

Output Quantize(v1::Compat compat, Isa isa, const std::vector<uint16_t>& weights) {
  QuantizeRule rule;
  rule.format.set_type(v1::NUMERIC_FP8_E4M3);
  rule.format.set_granularity(v1::PER_TENSOR);
  rule.scale_dtype = CompatModeOf(compat).bf16_scales ? DType::kBF16 : DType::kF32;
  rule.compat = compat;
  WeightRows rows;
  rows.bytes = std::as_bytes(std::span(weights));
  rows.dtype = DType::kBF16;
  rows.columns = 64;
  rows.rows = static_cast<int64_t>(weights.size()) / rows.columns;
  Output out;
  out.codes.resize(weights.size());
  std::vector<std::byte> scale(ScaleBytes(rule, rows.rows, rows.columns));
  const auto quantizer = MakeQuantizer(rule, isa);
  EXPECT_TRUE(quantizer.ok()) << quantizer.status();
  const auto report = (*quantizer)->Quantize(rows, nullptr, out.codes, scale);
  EXPECT_TRUE(report.ok()) << report.status();
  out.report = *report;
  uint32_t bits = 0;
  std::memcpy(&bits, scale.data(), scale.size());
  out.scale = scale.size() == 2 ? F32FromBf16(static_cast<uint16_t>(bits)) : FloatFromBits(bits);
  return out;
}

TEST(Compat, ScalesAndCodesOfEveryNumberAreThoseOfTheTool) {
  for (const float amax :
       {0.0732421875f, 1.0f, 0.99609375f, 3.1875f, 11.0625f, 448.0f, 0x1.8p-20f}) {
    const std::vector<uint16_t> weights = AllNumbersUpTo(amax);
    const double factor = Bf16(Bf16(1.0 / amax) * 448);
    for (const v1::Compat compat :
         {v1::COMPAT_AUTOFP8, v1::COMPAT_QUARK_2024, v1::COMPAT_QUARK_0_13}) {
      const bool reciprocal = compat == v1::COMPAT_AUTOFP8;
      const Output out = Quantize(compat, BestIsa(), weights);
      const Output plain = Quantize(compat, Isa::kReference, weights);
      EXPECT_EQ(out.codes, plain.codes);
      EXPECT_EQ(out.report.SerializeAsString(), plain.report.SerializeAsString());
      ASSERT_EQ(out.scale, reciprocal ? RoundTo(1.0 / factor, 24) : Bf16(amax / 448.0)) << amax;
      for (size_t i = 0; i < weights.size(); ++i) {
        const double x = F32FromBf16(weights[i]);
        const double q = Bf16(reciprocal ? x * factor : x / out.scale);
        ASSERT_EQ(F32FromFp8(static_cast<uint8_t>(out.codes[i])), Fp8(q))
            << amax << " " << x << " " << compat;
      }
    }
  }
}

TEST(Compat, AZeroTensorGetsTheScaleOfTheTool) {
  const auto scale_of = [](v1::Compat compat) {
    const Output out = Quantize(compat, BestIsa(), std::vector<uint16_t>(128, 0));
    EXPECT_EQ(out.report.zero_groups(), 1u);
    return out.scale;
  };
  EXPECT_EQ(scale_of(v1::COMPAT_QUARK_2024), 1.0);
  EXPECT_EQ(scale_of(v1::COMPAT_QUARK_0_13), 0x1p-23);
  const double least = F32FromBf16(Bf16FromF32(1e-12f));
  EXPECT_EQ(scale_of(v1::COMPAT_AUTOFP8), RoundTo(1 / Bf16(Bf16(1 / least) * 448), 24));
}

}  // namespace
}  // namespace octavo
