#pragma once

// The solver under test, and the recursion that it has to follow, restated so that it can be seen
// to be right: what is left of the Hessian is inverted afresh for every column.

#include <algorithm>
#include <bit>
#include <string>

#include "tests/worker/quant/solve/solve_fixture.h"
#include "worker/quant/solve/coder.h"

namespace octavo {

struct Solved {
  std::vector<std::byte> codes, scales;
  SolveReport report;

  bool operator==(const Solved& other) const {
    return codes == other.codes && scales == other.scales &&
           std::bit_cast<uint64_t>(report.error_after) ==
               std::bit_cast<uint64_t>(other.report.error_after) &&
           report.piece.SerializeAsString() == other.report.piece.SerializeAsString();
  }
};

class Solver : public testing::Test {
 protected:
  HessianFactor Factor(const Hessian& hessian, ColumnOrder order = ColumnOrder::kNatural) {
    return *FactorHessian(hessian, {.order = order}, BestIsa(), &arena_, &pool_);
  }
  Hessian Of(const std::vector<uint16_t>& x, int64_t channels) {
    return *HessianOf(x.data(), std::ssize(x) / channels, channels, channels, BestIsa(), &arena_,
                      &pool_);
  }
  Solved Solve(const HessianFactor& factor, const WeightRows& rows, const QuantizeRule& rule,
               Sparsity sparsity = Sparsity::kKeep, const v1::TieStat* joint = nullptr) {
    Solved out;
    out.codes.resize(CodeBytes(rows.rows, rows.columns));
    out.scales.resize(ScaleBytes(rule, rows.rows, rows.columns));
    auto report = SolveRows(SetupOf(factor), rows, rule, joint, sparsity, out.codes, out.scales);
    EXPECT_TRUE(report.ok()) << report.status();
    if (report.ok()) out.report = *report;
    return out;
  }
  SolveSetup SetupOf(const HessianFactor& factor) { return {&factor, isa_, &arena_, &pool_}; }

  Arena arena_{0};
  ThreadPool pool_{2};
  Isa isa_ = BestIsa();
};

inline constexpr v1::NumericType kTypes[] = {v1::NUMERIC_INT8, v1::NUMERIC_FP8_E4M3};
inline constexpr v1::Granularity kGranularities[] = {v1::PER_CHANNEL, v1::PER_TENSOR,
                                                     v1::PER_BLOCK};

// source - stored, of one row.
inline std::vector<double> RowError(const WeightRows& rows, const Coder& coder,
                                    const std::vector<std::byte>& stored, int64_t row) {
  std::vector<double> out;
  for (int64_t c = 0; c < rows.columns; ++c) {
    const double value = coder.Value(LoadStored(coder, stored, row * rows.columns + c));
    const double scale = coder.scales[coder.GroupOf(row, c)];
    out.push_back(static_cast<double>(SourceAt(rows, row, c)) - value * scale);
  }
  return out;
}

inline double TotalError(const Matrix& h, const WeightRows& rows, const Coder& coder,
                         const std::vector<std::byte>& stored) {
  double sum = 0;
  for (int64_t r = 0; r < rows.rows; ++r) sum += Quadratic(h, RowError(rows, coder, stored, r));
  return sum;
}

// The recursion of one row as the theory has it: the best answer to the error of one column, over
// the columns left, is read off the inverse of what is left of the Hessian. `zero_of` may mark
// channels (by position) as zero when a group of four is reached.
inline std::vector<uint32_t> Naive(const Matrix& damped, const std::vector<int32_t>& order,
                                   const WeightRows& rows, const Coder& coder, int64_t row,
                                   bool prune) {
  const size_t n = order.size();
  std::vector<double> w(n);
  for (size_t i = 0; i < n; ++i) w[i] = SourceAt(rows, row, order[i]);
  std::vector<uint32_t> stored(n);
  std::vector<bool> zero(n);
  for (size_t i = 0; i < n; ++i) {
    Matrix rest;
    for (size_t a = i; a < n; ++a) {
      rest.emplace_back();
      for (size_t b = i; b < n; ++b) {
        rest.back().push_back(damped[static_cast<size_t>(order[a])][static_cast<size_t>(order[b])]);
      }
    }
    const Matrix inverse = Inverse(rest);
    if (prune && i % 4 == 0) {
      // What it costs to drop each of the four is w^2 over the inverse of what is left when it is
      // reached.
      std::vector<std::pair<double, size_t>> costs;
      for (size_t t = i; t < i + 4; ++t) {
        Matrix tail;
        for (size_t a = t - i; a < rest.size(); ++a) {
          tail.emplace_back(rest[a].begin() + static_cast<std::ptrdiff_t>(t - i), rest[a].end());
        }
        costs.emplace_back(w[t] * w[t] / Inverse(tail)[0][0], t);
      }
      std::sort(costs.begin(), costs.end());
      zero[costs[0].second] = zero[costs[1].second] = true;
    }
    const float scale = coder.scales[coder.GroupOf(row, order[i])];
    const uint32_t bits = zero[i] ? 0 : coder.Encode(w[i], scale);
    const double error = w[i] - static_cast<double>(coder.Value(bits)) * scale;
    for (size_t j = i + 1; j < n; ++j) w[j] -= error * inverse[0][j - i] / inverse[0][0];
    stored[static_cast<size_t>(order[i])] = bits;
  }
  return stored;
}

inline Matrix Damped(const Hessian& hessian, const HessianFactor& factor) {
  Matrix out = ToMatrix(hessian);
  for (size_t i = 0; i < out.size(); ++i) out[i][i] += factor.damping();
  return out;
}

// Rows that got the codes of the recursion, not those of rounding to nearest.
inline int64_t ExpectFollows(const Matrix& damped, const HessianFactor& factor,
                             const WeightRows& rows, const Coder& coder,
                             const std::vector<std::byte>& stored, bool prune,
                             const std::string& what) {
  int64_t followed = 0;
  for (int64_t r = 0; r < rows.rows; ++r) {
    const auto want = Naive(damped, factor.order, rows, coder, r, prune);
    bool same = true;
    for (int64_t c = 0; c < rows.columns; ++c) {
      same &= LoadStored(coder, stored, r * rows.columns + c) == want[static_cast<size_t>(c)];
    }
    followed += same ? 1 : 0;
  }
  EXPECT_GE(followed, 1) << what;
  return followed;
}

}  // namespace octavo
