// Logits do not depend on ranks, chunks, threads, block tables or instruction sets: digests are
// compared, for every format.

#include <string>
#include <vector>

#include "core/model/family.h"
#include "gtest/gtest.h"
#include "kernels/isa.h"
#include "tests/worker/runner/tiny_model.h"

namespace octavo::testing {
namespace {

constexpr int64_t kTokens = 75;  // three key blocks, the last short

struct Case {
  std::string name;
  Format format;
  v1::ModelSpec spec;
  bool fp8_cache = false;
  bool head = false;  // in the format too
  v1::HeadType head_type = v1::HEAD_AS_STORED;
};

std::vector<Case> Cases() {
  std::vector<Case> cases = {
      {"Bf16", Format::kBf16, RaggedSpec()},
      {"Fp8Dynamic", Format::kFp8Dynamic, RaggedSpec()},
      {"Fp8Tensor", Format::kFp8Tensor, RaggedSpec()},
      {"Fp8WeightOnly", Format::kFp8WeightOnly, RaggedSpec()},
      {"Int8", Format::kInt8, RaggedSpec()},
      {"Fp8Block", Format::kFp8Block, BlockSpec()},
      {"MixtureBf16", Format::kBf16, MixtureSpec()},
      {"MixtureFp8Dynamic", Format::kFp8Dynamic, MixtureSpec()},
      {"MixtureInt8", Format::kInt8, MixtureSpec()},
      {"MixtureFp8Block", Format::kFp8Block, MixtureSpec()},
      {"DbrxBf16", Format::kBf16, DbrxSpec()},
      {"DbrxFp8Attention", Format::kFp8Dynamic, DbrxSpec()},
      {"Fp8Static", Format::kFp8Static, RaggedSpec()},
      {"Fp8StaticTied", Format::kFp8StaticTied, RaggedSpec(), true},
      {"Fp8Cache", Format::kBf16, RaggedSpec(), true},
      {"Fp8BlockWithFp8Cache", Format::kFp8Block, BlockSpec(), true},
      {"MixtureFp8Static", Format::kFp8Static, MixtureSpec(), true},
      {"MixtureFp8StaticTied", Format::kFp8StaticTied, MixtureSpec()},
      {"DbrxFp8StaticAttention", Format::kFp8Static, DbrxSpec(), true},
      {"Fp8DynamicHead", Format::kFp8Dynamic, RaggedSpec(), false, true},
      {"Fp8TensorHead", Format::kFp8Tensor, RaggedSpec(), false, true},
      {"Fp8WeightOnlyHead", Format::kFp8WeightOnly, RaggedSpec(), false, true},
      {"Int8Head", Format::kInt8, RaggedSpec(), false, true},
      {"Qwen3", Format::kFp8Dynamic, RaggedSpec()},
      {"MixtureOfOne", Format::kBf16, MixtureSpec()},
      {"Bf16TiedWithBias", Format::kBf16, RaggedSpec()},
  };
  cases.back().spec.set_tied_embeddings(true);
  cases.back().spec.set_attention_bias(true);
  cases.push_back({"TiedHeadAtLoad", Format::kBf16, RaggedSpec(), false, false, v1::HEAD_FP8});
  cases.back().spec.set_tied_embeddings(true);
  v1::ModelSpec& blocks = cases[9].spec;
  blocks.set_hidden_size(160);
  blocks.set_intermediate_size(320);
  blocks.set_head_dim(64);
  SetFamilyFacts(*FamilyByName("qwen3"), cases[cases.size() - 4].spec);
  v1::ModelSpec& one = cases[cases.size() - 3].spec;
  one.set_expert_count(1);
  one.set_experts_per_token(1);
  v1::RopeScaling* scaling = cases[1].spec.mutable_rope_scaling();
  scaling->set_type("llama3");
  scaling->set_factor(8);
  scaling->set_low_freq_factor(1);
  scaling->set_high_freq_factor(4);
  scaling->set_original_max_position(64);
  return cases;
}

class Invariance : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    model_ = WriteTinyModel(GetParam().spec, GetParam().format, 7, GetParam().fp8_cache,
                            GetParam().head);
    tokens_ = RandomTokens(kTokens, model_.spec.vocab_size(), 3);
    want_ = RunModel(model_, tokens_, {.isa = Isa::kReference, .head = GetParam().head_type});
    ASSERT_EQ(want_.size(), tokens_.size());
  }
  void Expect(RunSettings settings) {
    settings.head = GetParam().head_type;
    EXPECT_EQ(RunModel(model_, tokens_, settings), want_)
        << "ranks " << settings.ranks << ", chunk " << settings.chunk << ", threads "
        << settings.threads << ", " << Name(settings.isa);
  }
  TinyModel model_;
  std::vector<int32_t> tokens_;
  std::vector<Digest128> want_;
};

TEST_P(Invariance, OfRanks) {
  Expect({.ranks = 2});
  Expect({.ranks = 3});
  Expect({.ranks = 3, .chunk = 7});
}

TEST_P(Invariance, OfChunksAndPages) {
  for (const int64_t chunk : {1, 7, 64}) Expect({.chunk = chunk});
  Expect({.chunk = 7, .shuffle_blocks = true});
}

TEST_P(Invariance, OfThreads) {
  Expect({.threads = 2});
  Expect({.chunk = 1, .threads = 3});
}

TEST_P(Invariance, OfInstructionSets) {
  for (const Isa isa : kIsasBestFirst) {
    if (!IsSupported(isa)) continue;
    Expect({.isa = isa});
    Expect({.chunk = 1, .isa = isa});
    Expect({.ranks = 2, .chunk = 7, .threads = 2, .isa = isa});
  }
}

// The scales of the cache matter, and can be left aside.
TEST(Cache, IsWhatIsAskedFor) {
  const TinyModel model = WriteTinyModel(RaggedSpec(), Format::kFp8Static, 7, true);
  const auto tokens = RandomTokens(40, model.spec.vocab_size(), 3);
  const auto fp8 = RunModel(model, tokens, {.cache = v1::CACHE_FP8});
  const auto bf16 = RunModel(model, tokens, {.cache = v1::CACHE_BF16});
  EXPECT_EQ(RunModel(model, tokens, {}), fp8);
  EXPECT_NE(bf16, fp8);
  TinyModel without = model;
  without.cache_scales.clear();
  EXPECT_EQ(RunModel(without, tokens, {}), bf16);
}

INSTANTIATE_TEST_SUITE_P(Formats, Invariance, ::testing::ValuesIn(Cases()),
                         [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace octavo::testing
