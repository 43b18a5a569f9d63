// Smoothing: maxima, exponents near the formula, folds that lose nothing.

#include "worker/quant/smooth.h"

#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "core/tensor/bare/float_bits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::TensorSpec Spec(v1::DType dtype, std::vector<int64_t> shape) {
  v1::TensorSpec spec;
  spec.set_name("w");
  spec.set_file("f");
  spec.set_begin(100);
  spec.set_dtype(dtype);
  spec.mutable_shape()->Add(shape.begin(), shape.end());
  return spec;
}

template <typename T>
std::span<std::byte> BytesOf(std::vector<T>* values) {
  return std::as_writable_bytes(std::span(*values));
}

TEST(Smooth, MaximaAreOfMagnitudesAndMerge) {
  const uint16_t subnormal = 0x0003;
  const std::vector<uint16_t> x = {Bf16FromF32(-3), Bf16FromF32(1), subnormal,
                                   Bf16FromF32(2),  0x8000,         subnormal};
  ChannelAmax amax(3);
  AddChannelAmax(x.data(), 2, &amax);
  EXPECT_THAT(amax, ElementsAre(Bf16FromF32(3), Bf16FromF32(1), 0));
  const std::vector<uint16_t> more = {0, Bf16FromF32(-7), 0};
  AddChannelAmax(more.data(), 1, &amax);
  EXPECT_THAT(amax, ElementsAre(Bf16FromF32(3), Bf16FromF32(7), 0));

  std::vector<float> weight = {1, -5, 2, 0.5f};
  WeightRows rows;
  rows.bytes = BytesOf(&weight);
  rows.dtype = DType::kF32;
  rows.rows = 2;
  rows.columns = 2;
  rows.tensor = "w";
  rows.file_offset = 40;
  std::vector<uint32_t> columns(2);
  ASSERT_TRUE(AddColumnAmax(rows, &columns).ok());
  EXPECT_THAT(columns, ElementsAre(BitsOf(2.0f), BitsOf(5.0f)));
  weight[3] = std::nanf("");
  const absl::Status bad = AddColumnAmax(rows, &columns);
  EXPECT_THAT(std::string(bad.message()), HasSubstr("row 1 column 1 is NaN"));
  EXPECT_THAT(std::string(bad.message()), HasSubstr("52"));
}

TEST(Smooth, ExponentsAreThoseOfTheFormula) {
  std::mt19937 random(3);
  std::lognormal_distribution<float> any(0, 3);
  for (const double strength : {0.25, 0.5, 0.8, 1.0}) {
    ChannelAmax inputs;
    std::vector<uint32_t> weights;
    for (int i = 0; i < 2000; ++i) {
      inputs.push_back(Bf16FromF32(any(random)));
      weights.push_back(BitsOf(any(random)));
    }
    const Exponents k = SmoothingExponents(inputs, weights, strength);
    ASSERT_EQ(k.size(), inputs.size());
    for (size_t i = 0; i < k.size(); ++i) {
      const double want =
          strength * std::log2(static_cast<double>(F32FromBf16(inputs[i]))) -
          (1 - strength) * std::log2(static_cast<double>(FloatFromBits(weights[i])));
      EXPECT_NEAR(k[i], std::clamp(want, -16.0, 16.0), 0.5 + 1e-5) << i;
    }
  }
}

TEST(Smooth, NothingSeenIsNothingChangedAndThereIsABound) {
  const ChannelAmax inputs = {0, Bf16FromF32(4), Bf16FromF32(0x1p100f), Bf16FromF32(0x1p-100f)};
  const std::vector<uint32_t> weights = {BitsOf(1.0f), 0, BitsOf(1.0f), BitsOf(1.0f)};
  EXPECT_THAT(SmoothingExponents(inputs, weights, 0.5), ElementsAre(0, 0, 16, -16));
}

TEST(Smooth, FoldsColumnsFromAnyElementOnAndBack) {
  const Exponents k = {1, -2, 0};
  std::vector<uint16_t> values;
  for (const float value : {1.0f, 1.0f, 1.0f, -3.0f, 3.0f, 3.0f}) {
    values.push_back(Bf16FromF32(value));
  }
  const auto before = values;
  const auto spec = Spec(v1::BF16, {2, 3});
  ASSERT_TRUE(FoldElements(spec, 0, k, false, BytesOf(&values)).ok());
  EXPECT_THAT(values, ElementsAre(Bf16FromF32(2), Bf16FromF32(0.25), Bf16FromF32(1),
                                  Bf16FromF32(-6), Bf16FromF32(0.75), Bf16FromF32(3)));
  ASSERT_TRUE(FoldElements(spec, 0, k, true, BytesOf(&values)).ok());
  EXPECT_EQ(values, before);
  // From the second element of the first row on.
  std::vector<uint16_t> part(before.begin() + 1, before.end());
  ASSERT_TRUE(FoldElements(spec, 2, k, false, BytesOf(&part)).ok());
  EXPECT_THAT(part, ElementsAre(Bf16FromF32(0.25), Bf16FromF32(1), Bf16FromF32(-6),
                                Bf16FromF32(0.75), Bf16FromF32(3)));
}

TEST(Smooth, BeyondTheTypeIsAnErrorAndInfinityStays) {
  const Exponents k = {0, 4};
  std::vector<uint16_t> values = {F16FromF32(1), F16FromF32(5000)};
  const absl::Status beyond = FoldElements(Spec(v1::F16, {2}), 0, k, false, BytesOf(&values));
  EXPECT_THAT(std::string(beyond.message()), HasSubstr("5000 times 2^4 is beyond"));
  EXPECT_THAT(std::string(beyond.message()), HasSubstr("102"));
  std::vector<float> infinite = {1, INFINITY};
  EXPECT_TRUE(FoldElements(Spec(v1::F32, {2}), 0, k, false, BytesOf(&infinite)).ok());
  EXPECT_TRUE(std::isinf(infinite[1]));
  EXPECT_FALSE(FoldElements(Spec(v1::F32, {3}), 0, k, false, BytesOf(&infinite)).ok());
}

}  // namespace
}  // namespace octavo
