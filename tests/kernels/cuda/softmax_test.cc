// Denominators, maxima and largest logits against the reference, bit for bit.

#include "kernels/cuda/softmax/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp_env.h"
#include "gtest/gtest.h"
#include "kernels/softmax.h"

namespace octavo::cuda {
namespace {

using simt::Unified;

enum class Kind { kNormal, kFew, kEqual, kZeros, kWide };

// Rows of logits: normal ones; few different values; one value; zeros of both signs and subnormals;
// every exponent.
std::vector<float> Row(Kind kind, size_t columns, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, 4.0f);
  std::vector<float> row(columns);
  for (float& x : row) {
    switch (kind) {
      case Kind::kNormal:
        x = normal(random);
        break;
      case Kind::kFew:
        x = static_cast<float>(random() % 3) - 1.0f;
        break;
      case Kind::kEqual:
        x = -7.25f;
        break;
      case Kind::kZeros:
        x = FloatFromBits((random() % 2 << 31) | random() % 3);
        break;
      case Kind::kWide:
        x = FloatFromBits(random() & 0xbfffffffu);
        break;
    }
  }
  return row;
}

constexpr Kind kKinds[] = {Kind::kNormal, Kind::kFew, Kind::kEqual, Kind::kZeros, Kind::kWide};

Unified<float> Rows(int64_t rows, int64_t columns, uint32_t seed) {
  std::mt19937 random(seed);
  Unified<float> logits(static_cast<size_t>(rows * columns));
  for (int64_t row = 0; row < rows; ++row) {
    const auto values = Row(kKinds[row % 5], static_cast<size_t>(columns), random);
    std::copy(values.begin(), values.end(), logits.data() + row * columns);
  }
  return logits;
}

TEST(CudaSoftmax, LogSumsAndArgmaxAreTheReferences) {
  const FpEnv environment;
  const SoftmaxOps& ops = SoftmaxOpsFor(Isa::kReference);
  uint32_t seed = 1;
  for (const int64_t columns : {1, 2, 15, 16, 17, 511, 513, 4095, 4097, 9001}) {
    SCOPED_TRACE(columns);
    constexpr size_t kRows = 5;
    const Unified<float> logits = Rows(kRows, columns, seed++);
    const Unified<float> max(kRows), log(kRows);
    const Unified<int32_t> argmax(kRows);
    Launch(LogSums{logits.data(), kRows, columns, max.data(), log.data(), argmax.data()}, nullptr);
    ASSERT_TRUE(simt::Finish());
    EXPECT_TRUE(max.Intact() && log.Intact() && argmax.Intact());
    for (size_t row = 0; row < kRows; ++row) {
      const float* x = logits.data() + static_cast<int64_t>(row) * columns;
      const LogSum expected = ops.log_sum(x, columns);
      EXPECT_EQ(argmax[row], ops.argmax(x, columns)) << row;
      EXPECT_EQ(max[row], expected.max) << row;  // subnormals and zeros are the same here
      EXPECT_EQ(BitsOf(log[row]), BitsOf(expected.log)) << row;
    }
  }
}

TEST(CudaSoftmax, NanAndInfinityAreTold) {
  for (const float bad : {INFINITY, -INFINITY, std::nanf("")}) {
    Unified<float> logits = Rows(3, 1000, 9);
    logits[1000 + 777] = bad;
    const Unified<float> max(3), log(3);
    const Unified<int32_t> argmax(3);
    Launch(LogSums{logits.data(), 3, 1000, max.data(), log.data(), argmax.data()}, nullptr);
    ASSERT_TRUE(simt::Finish());
    for (size_t row = 0; row < 3; ++row) {
      EXPECT_EQ(std::isnan(max[row]), row == 1) << bad;
      EXPECT_EQ(std::isnan(log[row]), row == 1) << bad;
    }
  }
}

TEST(CudaSoftmax, TopLogitsAreTheFirstOfAStableSort) {
  const FpEnv environment;
  uint32_t seed = 50;
  for (const auto& [columns, k] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {7, 7}, {100, 1}, {1000, 64}, {1024, 1024}, {3001, 1000}, {9001, 513}}) {
    SCOPED_TRACE(std::to_string(k) + " of " + std::to_string(columns));
    constexpr size_t kRows = 5;
    const Unified<float> logits = Rows(kRows, columns, seed++);
    const auto size = static_cast<size_t>(k);
    const Unified<float> values(kRows * size);
    const Unified<int32_t> ids(kRows * size);
    Launch(TopLogits{logits.data(), kRows, columns, k, values.data(), ids.data()}, nullptr);
    ASSERT_TRUE(simt::Finish());
    EXPECT_TRUE(values.Intact() && ids.Intact());
    for (size_t row = 0; row < kRows; ++row) {
      const float* x = logits.data() + static_cast<int64_t>(row) * columns;
      std::vector<int32_t> order(static_cast<size_t>(columns));
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(),
                       [x](int32_t a, int32_t b) { return x[a] > x[b]; });
      for (size_t i = 0; i < size; ++i) {
        ASSERT_EQ(ids[row * size + i], order[i]) << row << ", " << i;
        ASSERT_EQ(BitsOf(values[row * size + i]), BitsOf(x[order[i]])) << row << ", " << i;
      }
    }
  }
}

TEST(CudaSoftmax, NoRowsIsNoWork) {
  Launch(LogSums{nullptr, 0, 100, nullptr, nullptr, nullptr}, nullptr);
  Launch(TopLogits{nullptr, 0, 100, 3, nullptr, nullptr}, nullptr);
  EXPECT_TRUE(simt::Finish());
}

}  // namespace
}  // namespace octavo::cuda
