// Inputs of linear layers: who shares a prepared form, what a static scale makes of a row, and what
// happens to rows that are no numbers.

#include "worker/runner/linear_input.h"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/fp_env.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/device/arena.h"
#include "worker/device/thread_pool.h"

namespace octavo {
namespace {

constexpr int64_t kDepth = 40;  // a 32-block and a short one
constexpr int64_t kRows = 6;

Linear Static(const std::string& name, float scale) {
  Linear linear;
  linear.name = name;
  linear.form = InputForm::kFp8Static;
  linear.static_scale = scale;
  linear.channels = 16;
  linear.depth = linear.unit_size = kDepth;
  linear.blocks_per_unit = 2;
  linear.packed = {WeightType::kFp8, 1, 2, nullptr, nullptr};
  return linear;
}

class LinearInputs : public ::testing::Test {
 protected:
  LinearInputs() : arena_(0), pool_(2), inputs_(BestIsa(), &pool_, &arena_) {
    for (int64_t i = 0; i < kRows * kDepth; ++i) {
      x_.push_back(Bf16FromF32(std::sin(static_cast<float>(i)) * 5.0f));
    }
  }

  // `input` holds rows from `row` on, of x divided by the layer's scale.
  void ExpectCodes(const LinearInput& input, const Linear& linear, int64_t row, int64_t rows) {
    ASSERT_EQ(input.rows, rows);
    EXPECT_EQ(input.row_scales, nullptr);
    const float factor = 1.0f / linear.static_scale;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = 0; k < 64; ++k) {
        float want = 0;
        if (k < kDepth) {
          const float x = F32FromBf16(x_[static_cast<size_t>((row + r) * kDepth + k)]);
          want = F32FromFp8(Fp8FromF32(x * factor));
        }
        ASSERT_EQ(input.values[r * input.stride + k], want) << linear.name << " " << r << " " << k;
      }
    }
  }

  FpEnv env_;
  Arena arena_;
  ThreadPool pool_;
  InputPreparer inputs_;
  std::vector<uint16_t> x_;
};

TEST_F(LinearInputs, LayersOfOneScaleShareTheirCodes) {
  const Linear query = Static("query", 0.01f);
  const Linear key = Static("key", 0.02f);  // saturates no value
  const Linear value = Static("value", 0.01f);
  const Linear* linears[] = {&query, &key, &value};
  ASSERT_TRUE(inputs_.Prepare(linears, x_.data(), kDepth, kRows, nullptr).ok());
  for (const Linear* linear : linears) ExpectCodes(inputs_.For(*linear), *linear, 0, kRows);
  EXPECT_EQ(inputs_.For(query).values, inputs_.For(value).values);
  EXPECT_NE(inputs_.For(query).values, inputs_.For(key).values);
  EXPECT_EQ(inputs_.For(query).values[2], 448.0f);  // sin(2) * 5 / 0.01, clamped to the largest
}

TEST_F(LinearInputs, ExpertsReadTheirOwnRows) {
  const Linear gates[] = {Static("0", 0.01f), Static("1", 0.02f), Static("2", 0.01f)};
  const Linear up = Static("up of 1", 0.03f);
  const InputUse uses[] = {
      {&gates[0], 0, 2}, {&gates[1], 2, 3}, {&up, 2, 3}, {&gates[2], 3, kRows}};
  ASSERT_TRUE(inputs_.Prepare(uses, x_.data(), kDepth, nullptr).ok());
  for (const InputUse& use : uses) {
    ExpectCodes(inputs_.For(use), *use.linear, use.begin, use.end - use.begin);
  }
  const Linear tied[] = {Static("0", 0.01f), Static("1", 0.01f)};
  const InputUse together[] = {{&tied[0], 0, 2}, {&tied[1], 2, kRows}};
  ASSERT_TRUE(inputs_.Prepare(together, x_.data(), kDepth, nullptr).ok());
  ExpectCodes(inputs_.For(together[1]), tied[1], 2, kRows - 2);
  const LinearInput first = inputs_.For(together[0]);
  EXPECT_EQ(first.values + 2 * first.stride, inputs_.For(together[1]).values);
}

TEST_F(LinearInputs, RowsThatAreNoNumbersAreAnErrorOrReachAllRanks) {
  const Linear linear = Static("model.layers.3.mlp.up_proj.weight", 0.01f);
  const Linear* linears[] = {&linear};
  for (const uint16_t bad : {0x7fc0, 0x7f80, 0xff80}) {  // NaN, infinities
    x_[2 * kDepth + 33] = bad;
    const absl::Status whole = inputs_.Prepare(linears, x_.data(), kDepth, kRows, nullptr);
    EXPECT_EQ(ReasonOf(whole), Reason::kNonFinite);
    EXPECT_THAT(std::string(whole.message()), ::testing::HasSubstr(linear.name));
    // This rank has only a part of each row: others must not be left waiting for its sums.
    const ExchangeMax never = [](std::span<uint32_t>) {
      return absl::InternalError("static scales need no exchange");
    };
    ASSERT_TRUE(inputs_.Prepare(linears, x_.data(), kDepth, kRows, never).ok());
    const LinearInput input = inputs_.For(linear);
    for (int64_t k = 0; k < kDepth; ++k)
      EXPECT_TRUE(std::isnan(input.values[2 * input.stride + k]));
    ExpectCodes(input.Rows(0, 2), linear, 0, 2);
    ExpectCodes(input.Rows(3, 3), linear, 3, 3);
  }
}

}  // namespace
}  // namespace octavo
