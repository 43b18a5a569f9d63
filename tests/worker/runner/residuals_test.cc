// The residual streams that a step keeps are those of the layers, each run alone.

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "core/plan/layer_plan.h"
#include "gtest/gtest.h"
#include "tests/worker/runner/tiny_model.h"
#include "worker/comm/local_group.h"
#include "worker/runner/layer_runner.h"
#include "worker/runner/runner.h"

namespace octavo::testing {
namespace {

constexpr uint32_t kTokens = 40;

void ExpectThoseOfLayers(const v1::ModelSpec& spec) {
  const TinyModel model = WriteTinyModel(spec, Format::kBf16, 5);
  const auto plan = PlanServing(model.spec, model.tensors, ServeOptions());
  ASSERT_TRUE(plan.ok()) << plan.status().message();
  const std::vector<int32_t> tokens = RandomTokens(kTokens, spec.vocab_size(), 2);
  const auto group = MakeLocalGroup(1);
  const auto runner = ModelRunner::Load(model.dir, *plan, 0, group[0].get(), {1, BestIsa(), 0});
  ASSERT_TRUE(runner.ok()) << runner.status().message();
  v1::Step step;
  v1::StepChunk& chunk = *step.add_chunks();
  chunk.mutable_tokens()->Add(tokens.begin(), tokens.end());
  for (uint32_t i = 0; i < 2; ++i) chunk.add_blocks(i);
  Logits logits;
  ASSERT_TRUE((*runner)->Run(step, &logits).ok());
  EXPECT_TRUE(logits.residuals.empty()) << "not asked for";
  chunk.set_residuals(true);
  ASSERT_TRUE((*runner)->Run(step, &logits).ok());
  const auto hidden = static_cast<size_t>(spec.hidden_size());
  const auto layers = static_cast<size_t>(spec.layer_count());
  ASSERT_GE(layers, 2u);
  ASSERT_EQ(logits.residuals.size(), kTokens * layers * hidden);
  EXPECT_TRUE(logits.values.empty());

  std::vector<uint16_t> x(kTokens * hidden);
  const auto embedding = std::find_if(
      model.tensors.begin(), model.tensors.end(),
      [](const ServedTensor& tensor) { return tensor.tensor.role() == v1::EMBEDDING; });
  ASSERT_TRUE(ReadEmbeddingRows(model.dir, embedding->tensor.spec(), tokens, x.data()).ok());
  for (size_t layer = 0; layer < layers; ++layer) {
    const auto alone =
        LayerRunner::Load(model.dir, LayerPlan(*plan, static_cast<int32_t>(layer)), {});
    ASSERT_TRUE(alone.ok()) << alone.status().message();
    const uint32_t length = kTokens;
    const LayerRunner::Samples samples = {.lengths = std::span(&length, 1)};
    ASSERT_TRUE((*alone)
                    ->Run(samples, x.data(), [](const Observed&) { return absl::OkStatus(); }, {})
                    .ok());
    for (size_t row = 0; row < kTokens; ++row) {
      EXPECT_EQ(std::memcmp(&logits.residuals[(row * layers + layer) * hidden], &x[row * hidden],
                            hidden * sizeof(uint16_t)),
                0)
          << "layer " << layer << ", row " << row;
    }
  }
}

TEST(Residuals, OfADenseModel) { ExpectThoseOfLayers(RaggedSpec()); }
TEST(Residuals, OfAMixture) { ExpectThoseOfLayers(MixtureSpec()); }

}  // namespace
}  // namespace octavo::testing
