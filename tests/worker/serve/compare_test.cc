// Comparing two models' rows against the textbook formulas, however the rows are cut.

#include "worker/serve/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/tensor/bare/float_bits.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

constexpr int64_t kVocab = 40;

using Row = std::vector<float>;

std::vector<Row> RandomRows(size_t count, uint32_t seed, float spread) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<Row> rows(count, Row(kVocab));
  for (Row& row : rows) {
    for (float& x : row) x = normal(random);
  }
  return rows;
}

// A source that gives the rows in runs of `run`; asked again after the last, it fails.
NextRows SourceOf(const std::vector<Row>& rows, size_t run, std::string* asked = nullptr,
                  char name = ' ') {
  return [=, at = size_t{0}]() mutable -> absl::StatusOr<EngineCall::Rows> {
    if (asked != nullptr) asked->push_back(name);
    if (at >= rows.size()) return MakeError(Reason::kInternal, "asked for more than there is");
    EngineCall::Rows out;
    out.start = static_cast<uint32_t>(at);
    for (const size_t end = std::min(at + run, rows.size()); at < end; ++at) {
      out.logits.insert(out.logits.end(), rows[at].begin(), rows[at].end());
    }
    return out;
  };
}

CompareParts Parts(NextRows reference, NextRows model) {
  return {.reference = std::move(reference), .model = std::move(model), .vocab_size = kVocab};
}

double LogSumExp(const Row& row) {
  double sum = 0;
  for (const float x : row) sum += std::exp(static_cast<double>(x));
  return std::log(sum);
}

struct Case {
  std::vector<int32_t> ids;
  std::vector<Row> reference, model;
};

Case RandomCase(size_t positions) {
  Case c;
  c.reference = RandomRows(positions, 1, 3.0f);
  c.model = RandomRows(positions, 2, 0.3f);
  std::mt19937 random(9);
  for (size_t t = 0; t < positions; ++t) {
    for (size_t v = 0; v < kVocab; ++v) c.model[t][v] += c.reference[t][v];
  }
  for (size_t t = 0; t <= positions; ++t) c.ids.push_back(static_cast<int32_t>(random() % kVocab));
  return c;
}

TEST(CompareSequence, IsThatOfTheFormulas) {
  const Case c = RandomCase(50);
  const auto result =
      CompareSequence(c.ids, Parts(SourceOf(c.reference, 50), SourceOf(c.model, 50)));
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->divergences_size(), 50);
  std::vector<uint32_t> disagreements;
  for (int t = 0; t < 50; ++t) {
    const Row& a = c.reference[static_cast<size_t>(t)];
    const Row& b = c.model[static_cast<size_t>(t)];
    const auto next = static_cast<size_t>(c.ids[static_cast<size_t>(t) + 1]);
    double divergence = 0;
    for (size_t v = 0; v < kVocab; ++v) {
      const double log_p = a[v] - LogSumExp(a);
      divergence += std::exp(log_p) * (log_p - (b[v] - LogSumExp(b)));
    }
    EXPECT_NEAR(result->divergences(t), divergence, 1e-6);
    EXPECT_NEAR(result->reference_logprobs(t), a[next] - LogSumExp(a), 1e-5);
    EXPECT_NEAR(result->logprobs(t), b[next] - LogSumExp(b), 1e-5);
    if (std::max_element(a.begin(), a.end()) - a.begin() !=
        std::max_element(b.begin(), b.end()) - b.begin()) {
      disagreements.push_back(static_cast<uint32_t>(t));
    }
  }
  EXPECT_FALSE(disagreements.empty());
  EXPECT_EQ(std::vector<uint32_t>(result->disagreements().begin(), result->disagreements().end()),
            disagreements);
}

TEST(CompareSequence, CutsAndInstructionSetsDoNotShow) {
  const Case c = RandomCase(37);
  std::string expected;
  for (const size_t a : {1u, 5u, 37u, 100u}) {
    for (const size_t b : {1u, 7u, 37u}) {
      for (const Isa isa : {Isa::kReference, Isa::kAvx2, Isa::kAvx512}) {
        if (!IsSupported(isa)) continue;
        CompareParts parts = Parts(SourceOf(c.reference, a), SourceOf(c.model, b));
        parts.isa = isa;
        parts.reference_first = a > b;
        const auto result = CompareSequence(c.ids, parts);
        ASSERT_TRUE(result.ok()) << result.status();
        if (expected.empty()) expected = result->SerializeAsString();
        EXPECT_EQ(result->SerializeAsString(), expected) << a << " " << b;
      }
    }
  }
}

TEST(CompareSequence, AModelEqualsItself) {
  const Case c = RandomCase(20);
  const auto result =
      CompareSequence(c.ids, Parts(SourceOf(c.reference, 3), SourceOf(c.reference, 4)));
  ASSERT_TRUE(result.ok()) << result.status();
  for (const double divergence : result->divergences()) EXPECT_EQ(divergence, 0.0);
  EXPECT_EQ(result->disagreements_size(), 0);
}

// Rows with residual streams beside them, in runs of `run`.
NextRows WithResiduals(const std::vector<Row>& rows, const std::vector<uint16_t>& residuals,
                       size_t run) {
  return [source = SourceOf(rows, run), residuals, count = rows.size(),
          run]() mutable -> absl::StatusOr<EngineCall::Rows> {
    auto out = source();
    if (!out.ok()) return out;
    const size_t width = residuals.size() / count;
    const auto begin = residuals.begin() + static_cast<ptrdiff_t>(out->start * width);
    const size_t rows_left = std::min(run, count - out->start);
    out->residuals.assign(begin, begin + static_cast<ptrdiff_t>(rows_left * width));
    return out;
  };
}

TEST(CompareSequence, LayersAreComparedHoweverRowsAreCut) {
  constexpr int64_t kLayers = 3;
  constexpr int64_t kHidden = 5;
  constexpr size_t kPositions = 11;
  const Case c = RandomCase(kPositions);
  std::mt19937 random(4);
  std::vector<uint16_t> a, b;
  for (size_t i = 0; i < kPositions * kLayers * kHidden; ++i) {
    const float value = std::normal_distribution<float>()(random);
    a.push_back(Bf16FromF32(value));
    const auto layer = static_cast<float>(i / kHidden % kLayers);
    b.push_back(Bf16FromF32(value + 0.1f * layer * std::normal_distribution<float>()(random)));
  }
  std::vector<double> difference(kLayers), square(kLayers);
  for (size_t i = 0; i < a.size(); ++i) {
    const double from = F32FromBf16(a[i]), to = F32FromBf16(b[i]);
    difference[i / kHidden % kLayers] += (to - from) * (to - from);
    square[i / kHidden % kLayers] += from * from;
  }
  std::string expected;
  for (const size_t run_a : {1u, 4u, 11u}) {
    for (const size_t run_b : {1u, 3u, 11u}) {
      CompareParts parts =
          Parts(WithResiduals(c.reference, a, run_a), WithResiduals(c.model, b, run_b));
      parts.layer_count = kLayers;
      parts.hidden_size = kHidden;
      const auto result = CompareSequence(c.ids, parts);
      ASSERT_TRUE(result.ok()) << result.status();
      if (expected.empty()) expected = result->SerializeAsString();
      EXPECT_EQ(result->SerializeAsString(), expected);
      ASSERT_EQ(result->layers_size(), kLayers);
      EXPECT_EQ(result->layers(0).squared_difference(), 0);
      for (int layer = 0; layer < kLayers; ++layer) {
        const auto l = static_cast<size_t>(layer);
        EXPECT_NEAR(result->layers(layer).squared_difference(), difference[l], 1e-12);
        EXPECT_NEAR(result->layers(layer).squared_reference(), square[l], 1e-10);
      }
    }
  }
  // Residual streams of another width, or none.
  a.pop_back();
  CompareParts parts = Parts(WithResiduals(c.reference, a, 1), WithResiduals(c.model, b, 1));
  parts.layer_count = kLayers;
  parts.hidden_size = kHidden;
  EXPECT_EQ(ReasonOf(CompareSequence(c.ids, parts).status()), Reason::kStateMismatch);
  parts.reference = SourceOf(c.reference, 1);
  EXPECT_EQ(ReasonOf(CompareSequence(c.ids, parts).status()), Reason::kStateMismatch);
}

TEST(CompareSequence, AsksTheChosenModelFirst) {
  const Case c = RandomCase(4);
  for (const bool reference_first : {false, true}) {
    std::string asked;
    CompareParts parts =
        Parts(SourceOf(c.reference, 2, &asked, 'r'), SourceOf(c.model, 2, &asked, 'm'));
    parts.reference_first = reference_first;
    ASSERT_TRUE(CompareSequence(c.ids, parts).ok());
    EXPECT_EQ(asked, reference_first ? "rmrm" : "mrmr");
  }
}

TEST(CompareSequence, SaysWhatIsWrong) {
  const Case c = RandomCase(6);
  const auto reason = [&](NextRows reference, NextRows model, std::string_view named) {
    const auto result = CompareSequence(c.ids, Parts(std::move(reference), std::move(model)));
    EXPECT_FALSE(result.ok());
    if (result.ok()) return Reason::kInternal;
    EXPECT_NE(std::string(result.status().message()).find(named), std::string::npos)
        << result.status();
    return ReasonOf(result.status());
  };
  const NextRows good = SourceOf(c.reference, 2);
  // Ends early, skips, is too short, has another width, fails by itself.
  const NextRows early = SourceOf({c.model.begin(), c.model.begin() + 4}, 2);
  EXPECT_EQ(reason(good, early, "asked for more"), Reason::kInternal);
  const auto rows_of = [](uint32_t start, size_t values) {
    return [=]() -> absl::StatusOr<EngineCall::Rows> {
      return EngineCall::Rows{.start = start, .logits = std::vector<float>(values, 0.5f)};
    };
  };
  EXPECT_EQ(reason(rows_of(1, kVocab), good, "reference"), Reason::kStateMismatch);
  EXPECT_EQ(reason(rows_of(0, kVocab + 1), good, "reference"), Reason::kStateMismatch);
  EXPECT_EQ(reason(good, rows_of(0, 0), "model"), Reason::kStateMismatch);
  const NextRows lost = []() -> absl::StatusOr<EngineCall::Rows> {
    return MakeError(Reason::kGroupLost, "gone");
  };
  EXPECT_EQ(reason(lost, good, "reference: gone"), Reason::kGroupLost);
  Case broken = c;
  broken.model[3][7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(reason(good, SourceOf(broken.model, 6), "logit 7"), Reason::kNonFinite);
}

}  // namespace
}  // namespace octavo
