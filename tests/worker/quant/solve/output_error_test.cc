// What quantizing does to outputs, against plain loops in F64 and against dW H dW^T.

#include "worker/quant/solve/output_error.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "core/base/error.h"
#include "core/tensor/bare/fp8.h"
#include "core/tensor/bare/fp_env.h"
#include "core/tensor/bare/units.h"
#include "tests/worker/quant/solve/solve_fixture.h"

namespace octavo {
namespace {

struct Case {
  const char* name;
  v1::NumericType type;
  v1::Granularity weight;
  v1::Granularity input;  // GRANULARITY_UNSPECIFIED: stays
};
constexpr Case kCases[] = {
    {"fp8", v1::NUMERIC_FP8_E4M3, v1::PER_CHANNEL, v1::PER_TOKEN},
    {"fp8_tensor", v1::NUMERIC_FP8_E4M3, v1::PER_TENSOR, v1::PER_TOKEN},
    {"fp8_block", v1::NUMERIC_FP8_E4M3, v1::PER_BLOCK, v1::PER_GROUP},
    {"int8", v1::NUMERIC_INT8, v1::PER_CHANNEL, v1::PER_TOKEN},
    {"fp8_weights", v1::NUMERIC_FP8_E4M3, v1::PER_CHANNEL, v1::GRANULARITY_UNSPECIFIED},
    {"block_weights", v1::NUMERIC_FP8_E4M3, v1::PER_BLOCK, v1::GRANULARITY_UNSPECIFIED}};

Matrix Wide(const std::vector<uint16_t>& x, int64_t rows, int64_t columns) {
  Matrix out(static_cast<size_t>(rows), std::vector<double>(static_cast<size_t>(columns)));
  for (size_t i = 0; i < x.size(); ++i) {
    out[i / static_cast<size_t>(columns)][i % static_cast<size_t>(columns)] = F32FromBf16(x[i]);
  }
  return out;
}

// Values of docs/numerics.md, "Activations", of `count` numbers under one scale.
void RoundRun(const Case& how, double* x, size_t count) {
  float amax = 0;
  for (size_t i = 0; i < count; ++i) amax = std::max(amax, static_cast<float>(std::fabs(x[i])));
  if (how.type == v1::NUMERIC_INT8) {
    const float factor = 127.0f / amax;
    for (size_t i = 0; i < count; ++i) {
      const float code = std::nearbyint(static_cast<float>(x[i]) * factor);
      x[i] = static_cast<double>(std::clamp(code, -127.0f, 127.0f)) * (amax / 127.0f);
    }
    return;
  }
  const float scale = std::max(amax / 448.0f, 1.0f / (448.0f * 512.0f));
  for (size_t i = 0; i < count; ++i) {
    x[i] = static_cast<double>(F32FromFp8(Fp8FromF32(static_cast<float>(x[i]) / scale))) * scale;
  }
}

Matrix RoundInputs(const Case& how, Matrix x) {
  for (auto& row : x) {
    const size_t run = how.input == v1::PER_GROUP ? 128 : row.size();
    for (size_t at = 0; at < row.size(); at += run) {
      RoundRun(how, row.data() + at, std::min(run, row.size() - at));
    }
  }
  return x;
}

// The weights that codes stand for, from a quantizer of its own.
Matrix RoundWeights(const QuantizeRule& rule, const TestWeight& weight) {
  Matrix out;
  for (int64_t begin = 0; begin < weight.rows; begin += 128) {
    const WeightRows rows = weight.Piece(begin, std::min(begin + 128, weight.rows));
    std::vector<std::byte> codes(CodeBytes(rows.rows, rows.columns));
    std::vector<std::byte> scales(ScaleBytes(rule, rows.rows, rows.columns));
    EXPECT_TRUE(
        (*MakeQuantizer(rule, Isa::kReference))->Quantize(rows, nullptr, codes, scales).ok());
    const Coder coder = CoderOfScales(rule, rows, scales);
    for (int64_t row = 0; row < rows.rows; ++row) {
      auto& values = out.emplace_back();
      for (int64_t c = 0; c < rows.columns; ++c) {
        values.push_back(
            static_cast<double>(coder.Value(LoadStored(coder, codes, row * rows.columns + c))) *
            coder.scales[coder.GroupOf(row, c)]);
      }
    }
  }
  return out;
}

// sum of (xa wa^T - xb wb^T)^2.
double Difference(const Matrix& xa, const Matrix& wa, const Matrix& xb, const Matrix& wb) {
  double sum = 0;
  for (size_t t = 0; t < xa.size(); ++t) {
    for (size_t r = 0; r < wa.size(); ++r) {
      double y = 0;
      for (size_t k = 0; k < xa[t].size(); ++k) y += xa[t][k] * wa[r][k] - xb[t][k] * wb[r][k];
      sum += y * y;
    }
  }
  return sum;
}

class OutputError : public ::testing::TestWithParam<Case> {
 protected:
  v1::NumericFormat Input() const {
    v1::NumericFormat input;
    input.set_type(GetParam().type);
    input.set_granularity(GetParam().input);
    input.set_dynamic(true);
    if (GetParam().input == v1::PER_GROUP) input.set_block_columns(128);
    return input;
  }
  QuantizeRule Rule() const {
    return TestRule(GetParam().type, GetParam().weight, v1::ABSMAX, DType::kBF16);
  }
  bool has_inputs() const { return GetParam().input != v1::GRANULARITY_UNSPECIFIED; }

  // Tokens in two runs, weights 128 rows at a time.
  OutputSums Measure(const std::vector<uint16_t>& x, const TestWeight& weight, Isa isa,
                     int threads) {
    Arena arena(0);
    ThreadPool pool(threads);
    const v1::NumericFormat input = Input();
    auto tokens =
        OutputTokens::Make(weight.columns, has_inputs() ? &input : nullptr, isa, &arena, &pool);
    EXPECT_TRUE(tokens.ok()) << tokens.status();
    const auto count = static_cast<int64_t>(x.size()) / weight.columns;
    const int64_t first = count / 3;
    tokens->Add(x.data(), first, weight.columns);
    tokens->Add(x.data() + first * weight.columns, count - first, weight.columns);
    std::vector<OutputSums> sums;
    auto measuring = MeasuringQuantizer::Make(Rule(), &*tokens, isa, &arena, &pool, &sums);
    EXPECT_TRUE(measuring.ok()) << measuring.status();
    for (int64_t begin = 0; begin < weight.rows; begin += 128) {
      const WeightRows rows = weight.Piece(begin, std::min(begin + 128, weight.rows));
      std::vector<std::byte> codes(CodeBytes(rows.rows, rows.columns));
      std::vector<std::byte> scales(ScaleBytes(Rule(), rows.rows, rows.columns));
      EXPECT_TRUE((*measuring)->Quantize(rows, nullptr, codes, scales).ok());
    }
    return MergeOutputSums(sums);
  }
};

TEST_P(OutputError, IsThatOfPlainLoops) {
  for (const int64_t columns : {32, 150, 272}) {
    const int64_t count = 70;
    const std::vector<uint16_t> x = CorrelatedTokens(3, count, columns, 4);
    TestWeight weight = RandomWeight(4, 150, columns);
    weight.Set(3, 5, 2.5f);  // one outlier: its row or block loses precision
    const OutputSums got = Measure(x, weight, BestIsa(), 2);
    const Matrix plain = Wide(x, count, columns);
    const Matrix w = Wide(weight.values, weight.rows, columns);
    const Matrix rounded = has_inputs() ? RoundInputs(GetParam(), plain) : plain;
    const Matrix q = RoundWeights(Rule(), weight);
    const Matrix zero(w.size(), std::vector<double>(w.front().size()));
    // Sums are F32, of which the difference of two outputs is a hundredth part or less.
    const auto near = [&](double value, double want, const char* what) {
      EXPECT_NEAR(value / want, 1, 2e-3) << what << " at " << columns;
    };
    near(got.output, Difference(plain, w, plain, zero), "output");
    near(got.weights, Difference(plain, q, plain, w), "weights");
    near(got.both, Difference(rounded, q, plain, w), "both");
    if (has_inputs()) {
      near(got.inputs, Difference(rounded, w, plain, w), "inputs");
    } else {
      EXPECT_EQ(got.inputs, 0);
      EXPECT_EQ(got.both, got.weights);
    }
    // dW H dW^T.
    Matrix h(static_cast<size_t>(columns), std::vector<double>(static_cast<size_t>(columns)));
    for (const auto& row : plain) {
      for (size_t i = 0; i < row.size(); ++i) {
        for (size_t j = 0; j < row.size(); ++j) h[i][j] += row[i] * row[j];
      }
    }
    double quadratic = 0;
    for (size_t r = 0; r < w.size(); ++r) {
      std::vector<double> change = q[r];
      for (size_t k = 0; k < change.size(); ++k) change[k] -= w[r][k];
      quadratic += Quadratic(h, change);
    }
    near(got.weights, quadratic, "dW H dW^T");
  }
}

TEST_P(OutputError, BitsDependNeitherOnKernelsNorOnThreads) {
  const int64_t columns = 176;
  const std::vector<uint16_t> x = CorrelatedTokens(5, 200, columns, 4);
  const TestWeight weight = RandomWeight(6, 200, columns);
  const OutputSums want = Measure(x, weight, Isa::kReference, 1);
  EXPECT_GT(want.both, 0);
  for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
    if (!IsSupported(isa)) continue;
    for (const int threads : {1, 3}) {
      const OutputSums got = Measure(x, weight, isa, threads);
      EXPECT_EQ(std::bit_cast<uint64_t>(got.output), std::bit_cast<uint64_t>(want.output));
      EXPECT_EQ(std::bit_cast<uint64_t>(got.weights), std::bit_cast<uint64_t>(want.weights));
      EXPECT_EQ(std::bit_cast<uint64_t>(got.inputs), std::bit_cast<uint64_t>(want.inputs));
      EXPECT_EQ(std::bit_cast<uint64_t>(got.both), std::bit_cast<uint64_t>(want.both));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Schemes, OutputError, ::testing::ValuesIn(kCases),
                         [](const auto& given) { return std::string(given.param.name); });

TEST(OutputErrorRefuses, WhatItsProductsCannotScale) {
  Arena arena(0);
  ThreadPool pool(1);
  v1::NumericFormat input;
  input.set_type(v1::NUMERIC_FP8_E4M3);
  input.set_granularity(v1::PER_TENSOR);
  EXPECT_EQ(ReasonOf(OutputTokens::Make(64, &input, BestIsa(), &arena, &pool).status()),
            Reason::kUnsupported);
  input.set_granularity(v1::PER_TOKEN);
  input.set_dynamic(true);
  const auto tokens = OutputTokens::Make(64, &input, BestIsa(), &arena, &pool);
  ASSERT_TRUE(tokens.ok());
  std::vector<OutputSums> sums;
  const auto blocks = MeasuringQuantizer::Make(TestRule(v1::NUMERIC_FP8_E4M3, v1::PER_BLOCK),
                                               &*tokens, BestIsa(), &arena, &pool, &sums);
  EXPECT_EQ(ReasonOf(blocks.status()), Reason::kUnsupported);
}

}  // namespace
}  // namespace octavo
