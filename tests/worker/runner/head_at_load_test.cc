// A head that is quantized at load is the head that a quantized checkpoint has: codes, scales,
// logits and memory.

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/runner/tiny_model.h"
#include "worker/comm/local_group.h"
#include "worker/quant/quantizer.h"
#include "worker/runner/runner.h"

namespace octavo::testing {
namespace {

using ::testing::HasSubstr;

TinyModel Model(bool tied) {
  v1::ModelSpec spec = RaggedSpec();
  spec.set_tied_embeddings(tied);
  return WriteTinyModel(spec, Format::kBf16, 11);
}

ServedTensor& HeadOf(TinyModel& model) {
  const v1::TensorRole role = model.spec.tied_embeddings() ? v1::EMBEDDING : v1::LM_HEAD;
  return *std::find_if(model.tensors.begin(), model.tensors.end(),
                       [&](const ServedTensor& one) { return one.tensor.role() == role; });
}

// The same model with the head of its own that the quantizer makes, in head.bin beside the rest.
TinyModel Quantized(TinyModel model) {
  ServedTensor head = HeadOf(model);
  v1::TensorSpec& spec = *head.tensor.mutable_spec();
  std::ifstream file(model.dir + "/" + spec.file(), std::ios::binary);
  std::string stored(spec.end() - spec.begin(), '\0');
  file.seekg(static_cast<std::streamoff>(spec.begin()));
  file.read(stored.data(), static_cast<std::streamsize>(stored.size()));
  v1::Scheme& scheme = head.scheme.emplace();
  scheme.mutable_weight()->set_type(v1::NUMERIC_FP8_E4M3);
  scheme.mutable_weight()->set_granularity(v1::PER_CHANNEL);
  scheme.mutable_input()->set_type(v1::NUMERIC_FP8_E4M3);
  scheme.mutable_input()->set_granularity(v1::PER_TOKEN);
  scheme.mutable_input()->set_dynamic(true);
  const QuantizeRule rule = {.format = scheme.weight(), .scale_dtype = DType::kBF16};
  const int64_t rows = spec.shape(0), columns = spec.shape(1);
  std::vector<std::byte> codes(CodeBytes(rows, columns));
  std::vector<std::byte> scales(ScaleBytes(rule, rows, columns));
  const auto made =
      (*MakeQuantizer(rule, BestIsa()))
          ->Quantize({std::as_bytes(std::span(stored)), DType::kBF16, 0, rows, columns}, nullptr,
                     codes, scales);
  EXPECT_TRUE(made.ok()) << made.status();
  std::ofstream(model.dir + "/head.bin", std::ios::binary)
      .write(reinterpret_cast<const char*>(codes.data()),
             static_cast<std::streamsize>(codes.size()))
      .write(reinterpret_cast<const char*>(scales.data()),
             static_cast<std::streamsize>(scales.size()));
  head.tensor.set_role(v1::LM_HEAD);
  spec.set_file("head.bin");
  spec.set_dtype(v1::F8_E4M3);
  spec.set_begin(0);
  spec.set_end(codes.size());
  v1::TensorSpec& scale = head.scale.emplace();
  scale.set_name("lm_head.weight_scale");
  scale.set_file("head.bin");
  scale.set_dtype(v1::BF16);
  scale.add_shape(rows);
  scale.set_begin(codes.size());
  scale.set_end(codes.size() + scales.size());
  if (model.spec.tied_embeddings()) {
    model.spec.set_tied_embeddings(false);
    model.tensors.push_back(head);
  } else {
    HeadOf(model) = head;
  }
  return model;
}

v1::ServePlan PlanOf(const TinyModel& model, uint32_t ranks, v1::HeadType head) {
  ServeOptions options;
  options.rank_count = ranks;
  options.head_type = head;
  const auto plan = PlanServing(model.spec, model.tensors, options);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? *plan : v1::ServePlan();
}

TEST(HeadAtLoad, IsTheHeadOfAQuantizedCheckpoint) {
  for (const bool tied : {false, true}) {
    const TinyModel model = Model(tied);
    const TinyModel quantized = Quantized(model);
    const auto tokens = RandomTokens(40, model.spec.vocab_size(), 3);
    const auto want = RunModel(quantized, tokens, {});
    ASSERT_EQ(want.size(), tokens.size());
    EXPECT_NE(RunModel(model, tokens, {}), want);
    for (const uint32_t ranks : {1u, 2u, 3u}) {
      EXPECT_EQ(RunModel(model, tokens, {.ranks = ranks, .head = v1::HEAD_FP8}), want)
          << ranks << (tied ? ", tied" : "");
    }
  }
}

TEST(HeadAtLoad, TakesTheMemoryOfAQuantizedCheckpoint) {
  for (const bool tied : {false, true}) {
    const TinyModel model = Model(tied);
    const TinyModel quantized = Quantized(model);
    for (const int ranks : {1, 3}) {
      const auto count = static_cast<uint32_t>(ranks);
      const v1::ServePlan plan = PlanOf(model, count, v1::HEAD_FP8);
      const v1::ServePlan other = PlanOf(quantized, count, v1::HEAD_AS_STORED);
      const auto group = MakeLocalGroup(ranks);
      for (uint32_t rank = 0; rank < count; ++rank) {
        const int at = static_cast<int>(rank);
        EXPECT_EQ(plan.ranks(at).weight_bytes(), other.ranks(at).weight_bytes());
        const RunnerOptions options = {1, BestIsa(), 0};
        const auto made = ModelRunner::Load(model.dir, plan, rank, group[rank].get(), options);
        const auto read = ModelRunner::Load(quantized.dir, other, rank, group[rank].get(), options);
        ASSERT_TRUE(made.ok() && read.ok()) << made.status() << read.status();
        EXPECT_EQ((*made)->resident_bytes(), (*read)->resident_bytes());
        EXPECT_TRUE((*made)->weight_bytes() == (*read)->weight_bytes());
        EXPECT_GT((*made)->weight_bytes().fp8, 0u);
        EXPECT_GT((*made)->weight_bytes().bf16, 0u);
      }
    }
  }
}

TEST(HeadAtLoad, RefusesHeadsThatAreNotNumbers) {
  TinyModel model = Model(false);
  const v1::TensorSpec& spec = HeadOf(model).tensor.spec();
  std::fstream(model.dir + "/" + spec.file(), std::ios::binary | std::ios::in | std::ios::out)
      .seekp(static_cast<std::streamoff>(spec.begin() + 2 * 80 * 7))
      .write("\x80\x7f", 2);
  const auto group = MakeLocalGroup(1);
  const absl::Status refused = ModelRunner::Load(model.dir, PlanOf(model, 1, v1::HEAD_FP8), 0,
                                                 group[0].get(), {1, BestIsa(), 0})
                                   .status();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(ReasonOf(refused), Reason::kNonFinite);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("row 7, column 0"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr(spec.name()));
}

}  // namespace
}  // namespace octavo::testing
