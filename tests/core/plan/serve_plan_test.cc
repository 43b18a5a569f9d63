// Layouts over ranks: uneven splits, tilings, refusals.

#include "core/plan/serve_plan.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using testing::HasSubstr;

// SmolLM2-135M with two layers.
v1::ModelSpec Spec() {
  v1::ModelSpec spec;
  spec.set_family("llama");
  spec.set_hidden_size(576);
  spec.set_intermediate_size(1536);
  spec.set_layer_count(2);
  spec.set_head_count(9);
  spec.set_kv_head_count(3);
  spec.set_head_dim(64);
  spec.set_vocab_size(49152);
  spec.set_max_position(8192);
  spec.set_norm_eps(1e-5);
  spec.set_tied_embeddings(true);
  spec.set_act("silu");
  return spec;
}

ServedTensor Tensor(v1::TensorRole role, int layer, std::vector<int64_t> shape) {
  ServedTensor out;
  out.tensor.set_role(role);
  out.tensor.set_layer(layer);
  out.tensor.set_expert(-1);
  out.tensor.mutable_spec()->set_name(v1::TensorRole_Name(role) + std::to_string(layer));
  out.tensor.mutable_spec()->set_dtype(v1::BF16);
  for (const int64_t dimension : shape) out.tensor.mutable_spec()->add_shape(dimension);
  return out;
}

std::vector<ServedTensor> Tensors() {
  std::vector<ServedTensor> out = {Tensor(v1::EMBEDDING, -1, {49152, 576}),
                                   Tensor(v1::FINAL_NORM, -1, {576})};
  for (int layer = 0; layer < 2; ++layer) {
    out.push_back(Tensor(v1::ATTENTION_NORM, layer, {576}));
    out.push_back(Tensor(v1::MLP_NORM, layer, {576}));
    out.push_back(Tensor(v1::Q_PROJ, layer, {576, 576}));
    out.push_back(Tensor(v1::K_PROJ, layer, {192, 576}));
    out.push_back(Tensor(v1::V_PROJ, layer, {192, 576}));
    out.push_back(Tensor(v1::O_PROJ, layer, {576, 576}));
    out.push_back(Tensor(v1::GATE_PROJ, layer, {1536, 576}));
    out.push_back(Tensor(v1::UP_PROJ, layer, {1536, 576}));
    out.push_back(Tensor(v1::DOWN_PROJ, layer, {576, 1536}));
  }
  return out;
}

void MakeBlockScaled(std::vector<ServedTensor>* tensors) {
  for (ServedTensor& tensor : *tensors) {
    if (tensor.tensor.role() != v1::DOWN_PROJ && tensor.tensor.role() != v1::O_PROJ) continue;
    tensor.tensor.mutable_spec()->set_dtype(v1::F8_E4M3);
    v1::Scheme scheme;
    scheme.mutable_weight()->set_type(v1::NUMERIC_FP8_E4M3);
    scheme.mutable_weight()->set_granularity(v1::PER_BLOCK);
    scheme.mutable_weight()->set_block_rows(128);
    scheme.mutable_weight()->set_block_columns(128);
    tensor.scheme = scheme;
    tensor.scale = v1::TensorSpec();
  }
}

absl::StatusOr<v1::ServePlan> Plan(uint32_t ranks, const std::vector<ServedTensor>& tensors) {
  ServeOptions options;
  options.rank_count = ranks;
  return PlanServing(Spec(), tensors, options);
}

TEST(PlanServing, SlicesTileEveryTensorAtAnyRankCount) {
  for (uint32_t ranks = 1; ranks <= 3; ++ranks) {
    const auto plan = Plan(ranks, Tensors());
    ASSERT_TRUE(plan.ok()) << plan.status().message();
    for (int i = 0; i < plan->ranks(0).tensors_size(); ++i) {
      int64_t next = 0;
      for (const v1::RankPlan& rank : plan->ranks()) {
        const v1::RankTensor& tensor = rank.tensors(i);
        if (!tensor.has_slice()) continue;
        EXPECT_EQ(tensor.slice().begin(), next);
        EXPECT_GT(tensor.slice().end(), next);
        next = tensor.slice().end();
      }
      const v1::RankTensor& tensor = plan->ranks(0).tensors(i);
      if (tensor.has_slice()) {
        EXPECT_EQ(next, tensor.tensor().spec().shape(static_cast<int>(tensor.slice().axis())));
      }
    }
  }
}

TEST(PlanServing, UnevenRanksOwnWholeUnits) {
  const auto plan = Plan(2, Tensors());
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->attention_unit_count(), 3u);
  EXPECT_EQ(plan->attention_unit_size(), 192);
  EXPECT_EQ(plan->mlp_unit_size(), 192);
  EXPECT_EQ(plan->ranks(0).kv_head_end(), 1u);
  EXPECT_EQ(plan->ranks(1).kv_head_end(), 3u);
  EXPECT_EQ(plan->kv_block_count(), 256u);
  EXPECT_EQ(plan->ranks(1).kv_bytes(), 256u * 2 * 2 * 8192);
}

TEST(PlanServing, RefusesToCutUnits) {
  const auto four = Plan(4, Tensors());
  ASSERT_FALSE(four.ok());
  EXPECT_THAT(std::string(four.status().message()), HasSubstr("3 KV heads"));
  std::vector<ServedTensor> block = Tensors();
  MakeBlockScaled(&block);
  EXPECT_TRUE(Plan(2, block).ok());
  const auto three = Plan(3, block);
  ASSERT_FALSE(three.ok());
  EXPECT_EQ(ReasonOf(three.status()), Reason::kBadRequest);
  EXPECT_THAT(std::string(three.status().message()), HasSubstr("2 of 384"));
}

TEST(PlanServing, RefusesWhatItCannotServe) {
  std::vector<ServedTensor> tensors = Tensors();
  tensors.pop_back();
  const auto missing = Plan(1, tensors);
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(ReasonOf(missing.status()), Reason::kBadCheckpoint);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("DOWN_PROJ"));

  tensors = Tensors();
  tensors[4].tensor.mutable_spec()->set_shape(0, 577);
  EXPECT_EQ(ReasonOf(Plan(1, tensors).status()), Reason::kBadCheckpoint);

  tensors = Tensors();
  tensors[4].tensor.mutable_spec()->set_dtype(v1::F8_E4M3);
  EXPECT_EQ(ReasonOf(Plan(1, tensors).status()), Reason::kBadCheckpoint);
}

void MakeStatic(ServedTensor* tensor) {
  tensor->tensor.mutable_spec()->set_dtype(v1::F8_E4M3);
  v1::Scheme& scheme = tensor->scheme.emplace();
  scheme.mutable_weight()->set_type(v1::NUMERIC_FP8_E4M3);
  scheme.mutable_weight()->set_granularity(v1::PER_TENSOR);
  scheme.mutable_input()->set_type(v1::NUMERIC_FP8_E4M3);
  scheme.mutable_input()->set_granularity(v1::PER_TENSOR);
  tensor->scale.emplace().set_name("weight scale");
  tensor->input_scale.emplace().set_name("input scale");
}

TEST(PlanServing, HandsStaticInputsOn) {
  for (const v1::Granularity granularity : {v1::PER_TENSOR, v1::PER_CHANNEL}) {
    std::vector<ServedTensor> tensors = Tensors();
    MakeStatic(&tensors[4]);
    tensors[4].scheme->mutable_weight()->set_granularity(granularity);
    const auto plan = Plan(2, tensors);
    ASSERT_TRUE(plan.ok()) << plan.status();
    for (const v1::RankPlan& rank : plan->ranks()) {
      int found = 0;
      for (const v1::RankTensor& tensor : rank.tensors()) found += tensor.has_input_scale();
      EXPECT_EQ(found, 1);
    }
  }
}

TEST(PlanServing, RefusesOtherStaticInputs) {
  const auto expect = [](Reason reason, const auto& damage) {
    std::vector<ServedTensor> tensors = Tensors();
    MakeStatic(&tensors[4]);
    damage(&tensors[4]);
    const auto plan = Plan(1, tensors);
    ASSERT_FALSE(plan.ok());
    EXPECT_EQ(ReasonOf(plan.status()), reason) << plan.status();
    EXPECT_THAT(std::string(plan.status().message()), HasSubstr(tensors[4].tensor.spec().name()));
  };
  expect(Reason::kBadCheckpoint, [](ServedTensor* t) { t->input_scale.reset(); });
  expect(Reason::kUnsupported,
         [](ServedTensor* t) { t->scheme->mutable_input()->set_granularity(v1::PER_TOKEN); });
  expect(Reason::kUnsupported, [](ServedTensor* t) {
    t->scheme->mutable_weight()->set_granularity(v1::PER_BLOCK);
    t->scheme->mutable_weight()->set_block_rows(128);
    t->scheme->mutable_weight()->set_block_columns(128);
  });
  expect(Reason::kUnsupported, [](ServedTensor* t) {
    t->scheme->mutable_weight()->set_type(v1::NUMERIC_INT8);
    t->scheme->mutable_input()->set_type(v1::NUMERIC_INT8);
    t->tensor.mutable_spec()->set_dtype(v1::I8);
  });
}

TEST(PlanServing, PlansTheCacheThatIsAskedFor) {
  std::vector<v1::CacheScales> scales(2);
  scales[1].mutable_key()->set_name("key of layer 1");
  const auto plan = [&](v1::CacheType type, std::span<const v1::CacheScales> given) {
    ServeOptions options;
    options.cache_type = type;
    return PlanServing(Spec(), Tensors(), options, given);
  };
  const auto plain = plan(v1::CACHE_BF16, scales);
  ASSERT_TRUE(plain.ok());
  EXPECT_TRUE(plain->cache_scales().empty());
  EXPECT_EQ(plan(v1::CACHE_AUTO, {})->ranks(0).kv_bytes(), plain->ranks(0).kv_bytes());
  for (const v1::CacheType type : {v1::CACHE_AUTO, v1::CACHE_FP8}) {
    const auto fp8 = plan(type, scales);
    ASSERT_TRUE(fp8.ok()) << fp8.status();
    ASSERT_EQ(fp8->cache_scales_size(), 2);
    EXPECT_EQ(fp8->cache_scales(1).key().name(), "key of layer 1");
    EXPECT_EQ(fp8->ranks(0).kv_bytes() * 2, plain->ranks(0).kv_bytes());
    EXPECT_EQ(fp8->kv_block_count(), plain->kv_block_count());
  }
  EXPECT_EQ(ReasonOf(plan(v1::CACHE_FP8, {}).status()), Reason::kBadRequest);
  EXPECT_EQ(ReasonOf(plan(v1::CACHE_AUTO, std::span(scales).first(1)).status()),
            Reason::kBadCheckpoint);
}

TEST(PlanServing, ScalesOfOneHaveToBeAskedFor) {
  ServeOptions options;
  options.cache_type = v1::CACHE_FP8;
  const auto refused = PlanServing(Spec(), Tensors(), options);
  ASSERT_EQ(ReasonOf(refused.status()), Reason::kBadRequest);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("scales of keys and values"));
  options.kv_scale_one = true;
  const auto ones = PlanServing(Spec(), Tensors(), options);
  ASSERT_TRUE(ones.ok()) << ones.status();
  ASSERT_EQ(ones->cache_scales_size(), 2);
  for (const v1::CacheScales& layer : ones->cache_scales()) {
    EXPECT_FALSE(layer.has_key() || layer.has_value());
  }
  // Those that were calibrated are used.
  std::vector<v1::CacheScales> scales(2);
  scales[1].mutable_key()->set_name("key of layer 1");
  const auto calibrated = PlanServing(Spec(), Tensors(), options, scales);
  ASSERT_TRUE(calibrated.ok()) << calibrated.status();
  EXPECT_EQ(calibrated->cache_scales(1).key().name(), "key of layer 1");
  EXPECT_EQ(ones->ranks(0).kv_bytes(), calibrated->ranks(0).kv_bytes());
  for (const v1::CacheType other : {v1::CACHE_AUTO, v1::CACHE_BF16}) {
    options.cache_type = other;
    EXPECT_EQ(ReasonOf(PlanServing(Spec(), Tensors(), options, scales).status()),
              Reason::kBadRequest);
  }
}

TEST(PlanServing, AHeadThatIsQuantizedAtLoadIsAHeadOfItsOwn) {
  ServeOptions options;
  options.head_type = v1::HEAD_FP8;
  for (options.rank_count = 1; options.rank_count <= 3; ++options.rank_count) {
    const auto tied = Plan(options.rank_count, Tensors());
    const auto plan = PlanServing(Spec(), Tensors(), options);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_FALSE(plan->model().tied_embeddings());
    for (const v1::RankPlan& rank : plan->ranks()) {
      const v1::RankTensor& head = rank.tensors(rank.tensors_size() - 1);
      EXPECT_EQ(head.tensor().role(), v1::LM_HEAD);
      EXPECT_TRUE(head.quantized_at_load() && head.has_scheme() && !head.has_scale());
      EXPECT_EQ(head.slice().begin(), rank.vocab_begin());
      EXPECT_EQ(head.slice().end(), rank.vocab_end());
      EXPECT_EQ(head.tensor().spec().name(), rank.tensors(0).tensor().spec().name());
      EXPECT_FALSE(rank.tensors(0).has_scheme());
      const auto own = static_cast<uint64_t>((rank.vocab_end() - rank.vocab_begin()) * 576);
      EXPECT_EQ(rank.weight_bytes(),
                tied->ranks(static_cast<int>(rank.rank())).weight_bytes() + own);
    }
  }
  // A head that is a tensor already shrinks by half; one of eight bits is refused.
  v1::ModelSpec untied = Spec();
  untied.set_tied_embeddings(false);
  std::vector<ServedTensor> tensors = Tensors();
  tensors.push_back(Tensor(v1::LM_HEAD, -1, {49152, 576}));
  options.rank_count = 1;
  const auto plan = PlanServing(untied, tensors, options);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->ranks(0).weight_bytes() + 49152 * 576,
            PlanServing(untied, tensors, {})->ranks(0).weight_bytes());
  ServedTensor& head = tensors.back();
  head.tensor.mutable_spec()->set_dtype(v1::F8_E4M3);
  head.scheme.emplace().mutable_weight()->set_type(v1::NUMERIC_FP8_E4M3);
  head.scheme->mutable_weight()->set_granularity(v1::PER_CHANNEL);
  head.scale.emplace();
  EXPECT_TRUE(PlanServing(untied, tensors, {}).ok());
  EXPECT_EQ(ReasonOf(PlanServing(untied, tensors, options).status()), Reason::kBadRequest);
}

TEST(PlanServing, FitsTheBudgetOrSaysWhatIsMissing) {
  ServeOptions options;
  const auto whole = PlanServing(Spec(), Tensors(), options);
  ASSERT_TRUE(whole.ok());
  const v1::RankPlan& rank = whole->ranks(0);
  options.rank_memory_bytes = rank.weight_bytes() + rank.kv_bytes() / 2 + rank.scratch_bytes();
  const auto half = PlanServing(Spec(), Tensors(), options);
  ASSERT_TRUE(half.ok()) << half.status().message();
  EXPECT_LT(half->max_model_len(), 8192);
  EXPECT_GT(half->max_model_len(), 2048);
  options.max_model_len = 8192;
  EXPECT_EQ(ReasonOf(PlanServing(Spec(), Tensors(), options).status()), Reason::kOutOfMemory);
  options.max_model_len = 8193;
  EXPECT_EQ(ReasonOf(PlanServing(Spec(), Tensors(), options).status()), Reason::kBadRequest);
}

TEST(PlanServing, TheCacheTakesWhatTheBudgetLeaves) {
  ServeOptions options;
  options.max_model_len = 512;
  options.max_sequences = 4;
  const auto most = PlanServing(Spec(), Tensors(), options);
  ASSERT_TRUE(most.ok());
  EXPECT_EQ(most->kv_block_count(), 4u * 16);
  const v1::RankPlan& rank = most->ranks(0);
  const uint64_t block = rank.kv_bytes() / most->kv_block_count();
  const uint64_t least = rank.weight_bytes() + rank.scratch_bytes() + 16 * block;
  for (const auto& [spare, blocks] : std::vector<std::pair<uint64_t, uint32_t>>{
           {0, 16}, {block - 1, 16}, {block, 17}, {10 * block, 26}, {1000 * block, 64}}) {
    options.rank_memory_bytes = least + spare;
    const auto plan = PlanServing(Spec(), Tensors(), options);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->kv_block_count(), blocks);
    EXPECT_EQ(plan->max_sequences(), 4u);
  }
  options.rank_memory_bytes = least - 1;
  const auto refused = PlanServing(Spec(), Tensors(), options);
  ASSERT_EQ(ReasonOf(refused.status()), Reason::kOutOfMemory);
  for (const uint64_t figure :
       {least, rank.weight_bytes(), 16 * block, rank.scratch_bytes(), least - 1}) {
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr(std::to_string(figure)));
  }
}

TEST(PlanServing, TheCacheIsBoundedWhereAsked) {
  ServeOptions options;
  options.max_model_len = 512;
  options.max_sequences = 4;
  for (const auto& [tokens, blocks] : std::vector<std::pair<int64_t, uint32_t>>{
           {512, 16}, {513, 17}, {1000, 32}, {9999, 64}, {INT64_MAX, 64}}) {
    options.kv_cache_tokens = tokens;
    const auto plan = PlanServing(Spec(), Tensors(), options);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->kv_block_count(), blocks) << tokens;
  }
  options.kv_cache_tokens = 511;
  EXPECT_EQ(ReasonOf(PlanServing(Spec(), Tensors(), options).status()), Reason::kBadRequest);
  options.max_model_len = 0;  // sequences are as long as the cache then
  EXPECT_EQ(PlanServing(Spec(), Tensors(), options)->max_model_len(), 511);
}

TEST(PlanServing, ScratchGrowsWithTheStep) {
  ServeOptions options;
  options.max_model_len = 512;
  const auto scratch = [&](uint32_t tokens, uint32_t sequences) {
    options.max_batched_tokens = tokens;
    options.max_sequences = sequences;
    return PlanServing(Spec(), Tensors(), options)->ranks(0).scratch_bytes();
  };
  const auto row = static_cast<uint64_t>(Spec().vocab_size()) * 4;
  EXPECT_EQ(scratch(256, 65) - scratch(256, 1), 64 * row);
  EXPECT_GE(scratch(128, 1) - scratch(64, 1), 64 * 2 * row);  // scored rows, twice
  EXPECT_GE(scratch(1024, 1) - scratch(256, 1),
            768u * static_cast<uint64_t>(Spec().hidden_size()) * 8);
  for (const auto& [tokens, sequences] :
       std::vector<std::pair<uint32_t, uint32_t>>{{0, 1}, {4, 0}, {4, 5}, {100000, 1}}) {
    options.max_batched_tokens = tokens;
    options.max_sequences = sequences;
    EXPECT_EQ(ReasonOf(PlanServing(Spec(), Tensors(), options).status()), Reason::kBadRequest);
  }
}

}  // namespace
}  // namespace octavo
