#pragma once

// What the tests of the solvers share: inputs with correlated channels, weights, and plain F64
// algebra to check against.

#include <cmath>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "core/tensor/bare/float_bits.h"
#include "gtest/gtest.h"
#include "tests/worker/quant/test_rule.h"
#include "worker/quant/solve/solver.h"

namespace octavo {

using Matrix = std::vector<std::vector<double>>;

// BF16 tokens whose channels share `factors` hidden causes and differ in size.
inline std::vector<uint16_t> CorrelatedTokens(uint64_t seed, int64_t tokens, int64_t channels,
                                              int64_t factors) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Matrix mix(static_cast<size_t>(factors), std::vector<double>(static_cast<size_t>(channels)));
  for (auto& row : mix) {
    for (double& x : row) x = normal(random);
  }
  std::vector<double> size(static_cast<size_t>(channels));
  for (double& x : size) x = std::exp(normal(random));
  std::vector<uint16_t> out;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<double> row(static_cast<size_t>(channels));
    for (double& x : row) x = 0.3 * normal(random);
    for (const auto& factor : mix) {
      const double amount = normal(random);
      for (size_t c = 0; c < row.size(); ++c) row[c] += amount * factor[c];
    }
    for (size_t c = 0; c < row.size(); ++c) {
      out.push_back(Bf16FromF32(static_cast<float>(row[c] * size[c])));
    }
  }
  return out;
}

// A BF16 weight.
struct TestWeight {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<uint16_t> values;

  float At(int64_t row, int64_t column) const {
    return F32FromBf16(values[static_cast<size_t>(row * columns + column)]);
  }
  void Set(int64_t row, int64_t column, float value) {
    values[static_cast<size_t>(row * columns + column)] = Bf16FromF32(value);
  }
  WeightRows Piece(int64_t begin, int64_t end) const {
    WeightRows piece;
    piece.bytes = std::as_bytes(std::span(values))
                      .subspan(static_cast<size_t>(begin * columns) * 2,
                               static_cast<size_t>((end - begin) * columns) * 2);
    piece.dtype = DType::kBF16;
    piece.row_begin = begin;
    piece.rows = end - begin;
    piece.columns = columns;
    piece.tensor = "w";
    return piece;
  }
};

inline TestWeight RandomWeight(uint64_t seed, int64_t rows, int64_t columns) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 0.02f);
  TestWeight out = {rows, columns, {}};
  for (int64_t i = 0; i < rows * columns; ++i) out.values.push_back(Bf16FromF32(normal(random)));
  return out;
}

// A Hessian with given elements (its upper triangle).
inline Hessian HessianFrom(const Matrix& h, Arena* arena) {
  Hessian out = *MakeHessian(static_cast<int64_t>(h.size()), arena);
  out.tokens = 1;
  for (size_t i = 0; i < h.size(); ++i) {
    for (size_t j = i; j < h.size(); ++j) {
      out.Row(static_cast<int64_t>(i))[j] = static_cast<float>(h[i][j]);
    }
  }
  return out;
}

inline Matrix ToMatrix(const Hessian& hessian) {
  const auto n = static_cast<size_t>(hessian.channels);
  Matrix out(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      out[i][j] = hessian.At(static_cast<int64_t>(i), static_cast<int64_t>(j));
    }
  }
  return out;
}

// Gauss and Jordan, largest pivot first.
inline Matrix Inverse(Matrix a) {
  const size_t n = a.size();
  Matrix out(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i) out[i][i] = 1;
  for (size_t c = 0; c < n; ++c) {
    size_t best = c;
    for (size_t r = c; r < n; ++r) {
      if (std::abs(a[r][c]) > std::abs(a[best][c])) best = r;
    }
    std::swap(a[c], a[best]);
    std::swap(out[c], out[best]);
    const double pivot = a[c][c];
    for (size_t j = 0; j < n; ++j) {
      a[c][j] /= pivot;
      out[c][j] /= pivot;
    }
    for (size_t r = 0; r < n; ++r) {
      if (r == c) continue;
      const double factor = a[r][c];
      for (size_t j = 0; j < n; ++j) {
        a[r][j] -= factor * a[c][j];
        out[r][j] -= factor * out[c][j];
      }
    }
  }
  return out;
}

// d H d^T.
inline double Quadratic(const Matrix& h, const std::vector<double>& d) {
  double sum = 0;
  for (size_t i = 0; i < d.size(); ++i) {
    for (size_t j = 0; j < d.size(); ++j) sum += d[i] * h[i][j] * d[j];
  }
  return sum;
}

}  // namespace octavo
