// The factor against an inverse made another way; damping, order and dead channels; and its bits.

#include "worker/quant/solve/factor.h"

#include <string>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/tensor/bare/philox.h"
#include "tests/worker/quant/solve/solve_fixture.h"

namespace octavo {
namespace {

using testing::Test;

class Factor : public Test {
 protected:
  Hessian Of(const std::vector<uint16_t>& x, int64_t channels) {
    return *HessianOf(x.data(), std::ssize(x) / channels, channels, channels, BestIsa(), &arena_,
                      &pool_);
  }
  absl::StatusOr<HessianFactor> Make(const Hessian& hessian, const FactorOptions& options = {}) {
    return FactorHessian(hessian, options, BestIsa(), &arena_, &pool_);
  }

  Arena arena_{0};
  ThreadPool pool_{2};
};

// The Hessian that was factored, by position.
Matrix Damped(const Hessian& hessian, const HessianFactor& factor) {
  const auto n = static_cast<size_t>(factor.channels);
  Matrix out(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) out[i][j] = hessian.At(factor.order[i], factor.order[j]);
    if (factor.dead[i] != 0) out[i][i] = factor.mean_diagonal;
    out[i][i] += factor.damping();
  }
  return out;
}

void ExpectIsFactorOf(const HessianFactor& factor, const Matrix& damped) {
  const Matrix inverse = Inverse(damped);
  const int64_t n = factor.channels;
  double largest = 0;
  for (const auto& row : inverse) {
    for (const double x : row) largest = std::max(largest, std::abs(x));
  }
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_GT(factor.u.Row(i)[i], 0);
    for (int64_t j = 0; j < n; ++j) {
      if (j < i) {
        ASSERT_EQ(factor.u.Row(i)[j], 0);
      }
      double sum = 0;
      for (int64_t k = 0; k <= std::min(i, j); ++k) sum += factor.u.Row(k)[i] * factor.u.Row(k)[j];
      ASSERT_NEAR(sum, inverse[static_cast<size_t>(i)][static_cast<size_t>(j)], largest * 1e-11)
          << i << " " << j;
    }
  }
}

TEST_F(Factor, SquaresToTheInverseForEveryOrder) {
  for (const int64_t channels : {1, 3, 64, 128, 129, 300}) {
    const Hessian h = Of(CorrelatedTokens(1, 500, channels, 4), channels);
    for (const ColumnOrder order :
         {ColumnOrder::kNatural, ColumnOrder::kActivation, ColumnOrder::kActivationByFours}) {
      const auto factor = Make(h, {.order = order});
      ASSERT_TRUE(factor.ok()) << factor.status();
      EXPECT_EQ(factor->tried, std::vector<double>{0.01});
      ExpectIsFactorOf(*factor, Damped(h, *factor));
    }
  }
}

TEST_F(Factor, OrdersByDiagonalWithTiesToTheLowerChannel) {
  Matrix h(10, std::vector<double>(10));
  const double diagonal[] = {1, 5, 2, 5, 3, 3, 3, 3, 9, 9};
  for (size_t i = 0; i < 10; ++i) h[i][i] = diagonal[i];
  const Hessian hessian = HessianFrom(h, &arena_);
  EXPECT_EQ(Make(hessian, {.order = ColumnOrder::kActivation})->order,
            (std::vector<int32_t>{8, 9, 1, 3, 4, 5, 6, 7, 2, 0}));
  // Runs 0..3 (13) and 4..7 (12); 8 and 9 fill none.
  EXPECT_EQ(Make(hessian, {.order = ColumnOrder::kActivationByFours})->order,
            (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  h[5][5] = 5;
  EXPECT_EQ(Make(HessianFrom(h, &arena_), {.order = ColumnOrder::kActivationByFours})->order,
            (std::vector<int32_t>{4, 5, 6, 7, 0, 1, 2, 3, 8, 9}));
}

TEST_F(Factor, DeadChannelsMeetNoOther) {
  const int64_t channels = 140;
  auto x = CorrelatedTokens(2, 400, channels, 3);
  for (size_t t = 0; t < 400; ++t) x[t * 140 + 7] = x[t * 140 + 139] = 0;
  const Hessian h = Of(x, channels);
  const auto factor = Make(h);
  ASSERT_TRUE(factor.ok());
  double sum = 0;
  for (int64_t i = 0; i < channels; ++i) sum += h.At(i, i);
  EXPECT_DOUBLE_EQ(factor->mean_diagonal, sum / 138);
  for (int64_t i = 0; i < channels; ++i) {
    EXPECT_EQ(factor->dead[static_cast<size_t>(i)], i == 7 || i == 139 ? 1 : 0);
    for (const int64_t dead : {7, 139}) {
      if (i == dead) continue;
      EXPECT_EQ(factor->u.Row(std::min(i, dead))[std::max(i, dead)], 0);
    }
  }
  ExpectIsFactorOf(*factor, Damped(h, *factor));
}

// Three tokens over 60 channels: rank 3.
TEST_F(Factor, SingularHessianRaisesDamping) {
  const Hessian h = Of(CorrelatedTokens(3, 3, 60, 3), 60);
  const auto plain = Make(h);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->tried, std::vector<double>{0.01});
  const auto raised = Make(h, {.damping = 0});
  ASSERT_TRUE(raised.ok()) << raised.status();
  EXPECT_EQ(raised->tried, (std::vector<double>{0, 0.01}));
  EXPECT_EQ(raised->damping(), 0.01 * raised->mean_diagonal);
  ExpectIsFactorOf(*raised, Damped(h, *raised));
}

TEST_F(Factor, DampingHasALimitAndEveryTryIsNamed) {
  // Eigenvalues 1 + 1.5 and 1 - 1.5: half of the mean diagonal is missing.
  const Hessian h = HessianFrom({{1, 1.5}, {1.5, 1}}, &arena_);
  const auto held = Make(h);
  ASSERT_TRUE(held.ok());
  EXPECT_EQ(held->tried, (std::vector<double>{0.01, 0.1, 1.0}));
  const absl::Status failed = Make(h, {.damping_limit = 0.4}).status();
  EXPECT_EQ(ReasonOf(failed), Reason::kBadData);
  EXPECT_NE(failed.message().find("damping 0.01, 0.1 of"), std::string::npos) << failed;
  EXPECT_EQ(ReasonOf(Make(h, {.damping = -1}).status()), Reason::kBadRecipe);
  EXPECT_EQ(ReasonOf(Make(h, {.damping = 2}).status()), Reason::kBadRecipe);
}

TEST_F(Factor, RefusesWhatIsNoHessian) {
  Hessian h = *MakeHessian(20, &arena_);
  EXPECT_EQ(ReasonOf(Make(h).status()), Reason::kBadData);
  h.tokens = 5;
  EXPECT_EQ(ReasonOf(Make(h).status()), Reason::kBadData);
  auto x = CorrelatedTokens(4, 50, 20, 2);
  x[33 * 20 + 6] = 0x7fc0;  // NaN
  const absl::Status failed = Make(Of(x, 20)).status();
  EXPECT_EQ(ReasonOf(failed), Reason::kNonFinite);
  EXPECT_NE(failed.message().find("channel 6"), std::string::npos) << failed;
  Arena small(1 << 16);
  EXPECT_EQ(ReasonOf(FactorHessian(Of(CorrelatedTokens(5, 50, 300, 2), 300), {}, BestIsa(), &small,
                                   &pool_)
                         .status()),
            Reason::kOutOfMemory);
}

TEST_F(Factor, EndsSoonWhenItIsStopped) {
  const Hessian h = Of(CorrelatedTokens(6, 3000, 1500, 2), 1500);
  std::stop_source stop;
  FactorOptions options;
  options.stop = stop.get_token();
  ASSERT_TRUE(Make(h, options).ok());
  stop.request_stop();
  EXPECT_EQ(ReasonOf(Make(h, options).status()), Reason::kCancelled);
}

// Integers make the input, so that no library's random numbers are in it.
std::vector<uint16_t> PhiloxTokens(int64_t tokens, int64_t channels) {
  std::vector<uint16_t> out;
  for (int64_t t = 0; t < tokens; ++t) {
    const float joint = UnitFloat(PhiloxAt(7, static_cast<uint64_t>(t), 1)[0]) - 0.5f;
    for (int64_t c = 0; c < channels; ++c) {
      const auto index = static_cast<uint64_t>(t * channels + c);
      const float own = UnitFloat(PhiloxAt(7, index, 0)[0]) - 0.5f;
      out.push_back(Bf16FromF32(own * static_cast<float>(1 + c % 5) + joint));
    }
  }
  return out;
}

std::string DigestOfFactor(const HessianFactor& factor) {
  DigestStream stream;
  for (int64_t i = 0; i < factor.channels; ++i) {
    const std::span row(factor.u.Row(i) + i, static_cast<size_t>(factor.channels - i));
    stream.Add(std::as_bytes(row));
  }
  return stream.Finish().Hex();
}

// The bits are part of what Octavo promises: they change with no processor, no number of threads
// and no compiler. A change of this digest is a change of docs/numerics.md.
TEST_F(Factor, BitsAreTheSameEverywhere) {
  const int64_t channels = 333;
  const auto x = PhiloxTokens(2100, channels);
  for (const Isa isa : kIsasBestFirst) {
    if (!IsSupported(isa)) continue;
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      const Hessian h = *HessianOf(x.data(), 2100, channels, channels, isa, &arena_, &pool);
      const auto factor =
          FactorHessian(h, {.order = ColumnOrder::kActivation}, isa, &arena_, &pool);
      ASSERT_TRUE(factor.ok());
      EXPECT_EQ(DigestOfFactor(*factor), "3e56e7ba5f32433778ef35e5c3fc4470")
          << Name(isa) << " " << threads;
    }
  }
}

}  // namespace
}  // namespace octavo
