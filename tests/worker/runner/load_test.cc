// What loading and stepping refuse, and that a rank reads nothing but its slices.

#include <cstring>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/runner/tiny_model.h"
#include "worker/comm/local_group.h"
#include "worker/runner/runner.h"

namespace octavo::testing {
namespace {

using ::testing::HasSubstr;

v1::ServePlan PlanOf(const TinyModel& model, uint32_t ranks) {
  ServeOptions options;
  options.rank_count = ranks;
  const auto plan = PlanServing(model.spec, model.tensors, options, model.cache_scales);
  EXPECT_TRUE(plan.ok()) << plan.status().message();
  return plan.ok() ? *plan : v1::ServePlan();
}

absl::StatusOr<std::unique_ptr<ModelRunner>> LoadRank(const TinyModel& model,
                                                      const v1::ServePlan& plan, uint32_t rank,
                                                      Communicator* communicator,
                                                      uint64_t memory = 0) {
  return ModelRunner::Load(model.dir, plan, rank, communicator, {1, BestIsa(), memory});
}

absl::Status LoadAlone(const TinyModel& model, uint64_t memory = 0) {
  const auto group = MakeLocalGroup(1);
  return LoadRank(model, PlanOf(model, 1), 0, group[0].get(), memory).status();
}

const ServedTensor& Find(const TinyModel& model, const std::string& name) {
  for (const ServedTensor& tensor : model.tensors) {
    if (tensor.tensor.spec().name() == name) return tensor;
  }
  ADD_FAILURE() << name;
  return model.tensors.front();
}

void Overwrite(const TinyModel& model, uint64_t offset, const std::string& bytes) {
  std::fstream file(model.dir + "/model.safetensors",
                    std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(offset));
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  ASSERT_TRUE(file.good());
}

void ExpectRefused(const absl::Status& status, Reason reason, const std::string& text) {
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), reason) << status.message();
  EXPECT_THAT(std::string(status.message()), HasSubstr(text));
}

TEST(Load, RefusesScalesThatAreNotNumbersAboveZero) {
  const std::string bad[] = {std::string("\0\0", 2), "\xc0\x7f", std::string("\x80\xbf", 2),
                             std::string("\x80\x7f", 2)};  // 0, NaN, -1, infinity
  for (const std::string& bytes : bad) {
    const TinyModel model = WriteTinyModel(RaggedSpec(), Format::kFp8Dynamic, 1);
    Overwrite(model, Find(model, "model.layers.1.mlp.down_proj.weight").scale->begin() + 10, bytes);
    ExpectRefused(LoadAlone(model), Reason::kBadCheckpoint,
                  "model.layers.1.mlp.down_proj.weight.scale");
  }
}

TEST(Load, RefusesStaticScalesThatAreNotNumbersAboveZero) {
  const std::string bad[] = {std::string("\0\0", 2), "\xc0\x7f", std::string("\x80\xbf", 2)};
  for (const std::string& bytes : bad) {  // 0, NaN, -1
    TinyModel model = WriteTinyModel(RaggedSpec(), Format::kFp8Static, 1, true);
    Overwrite(model, Find(model, "model.layers.1.mlp.down_proj.weight").input_scale->begin(),
              bytes);
    ExpectRefused(LoadAlone(model), Reason::kBadCheckpoint,
                  "model.layers.1.mlp.down_proj.weight.input_scale");
    model = WriteTinyModel(RaggedSpec(), Format::kFp8Static, 1, true);
    Overwrite(model, model.cache_scales[1].value().begin(), bytes);
    ExpectRefused(LoadAlone(model), Reason::kBadCheckpoint, "layer1.v_scale");
    model.cache_scales.clear();
    EXPECT_TRUE(LoadAlone(model).ok());
  }
}

TEST(Load, RefusesPlansWithoutTheStaticScales) {
  const TinyModel model = WriteTinyModel(RaggedSpec(), Format::kFp8Static, 1, true);
  const v1::ServePlan whole = PlanOf(model, 1);
  const auto group = MakeLocalGroup(1);
  v1::ServePlan plan = whole;
  for (v1::RankTensor& tensor : *plan.mutable_ranks(0)->mutable_tensors()) {
    if (tensor.tensor().spec().name() == "model.layers.1.self_attn.k_proj.weight") {
      tensor.clear_input_scale();
    }
  }
  ExpectRefused(LoadRank(model, plan, 0, group[0].get()).status(), Reason::kBadCheckpoint,
                "model.layers.1.self_attn.k_proj.weight");
  plan = whole;
  plan.mutable_cache_scales()->RemoveLast();
  ExpectRefused(LoadRank(model, plan, 0, group[0].get()).status(), Reason::kInternal,
                "1 layers of 2");
}

TEST(Load, AnFp8CacheTakesHalfTheBytes) {
  const TinyModel model = WriteTinyModel(RaggedSpec(), Format::kBf16, 1, true);
  TinyModel plain = model;
  plain.cache_scales.clear();
  const v1::ServePlan fp8 = PlanOf(model, 1);
  const v1::ServePlan bf16 = PlanOf(plain, 1);
  EXPECT_EQ(fp8.ranks(0).kv_bytes() * 2, bf16.ranks(0).kv_bytes());
  const auto group = MakeLocalGroup(1);
  const auto small = LoadRank(model, fp8, 0, group[0].get());
  const auto large = LoadRank(plain, bf16, 0, group[0].get());
  ASSERT_TRUE(small.ok() && large.ok());
  EXPECT_EQ((*large)->resident_bytes() - (*small)->resident_bytes(), fp8.ranks(0).kv_bytes());
}

TEST(Load, RefusesCodesAndWeightsThatAreNotNumbers) {
  TinyModel model = WriteTinyModel(RaggedSpec(), Format::kFp8Dynamic, 1);
  Overwrite(model, Find(model, "model.layers.0.mlp.up_proj.weight").tensor.spec().begin() + 999,
            "\xff");
  ExpectRefused(LoadAlone(model), Reason::kNonFinite, "model.layers.0.mlp.up_proj.weight");

  model = WriteTinyModel(RaggedSpec(), Format::kBf16, 1);
  Overwrite(model,
            Find(model, "model.layers.0.self_attn.o_proj.weight").tensor.spec().begin() + 2 * 77,
            "\x80\xff");
  ExpectRefused(LoadAlone(model), Reason::kNonFinite, "model.layers.0.self_attn.o_proj.weight");

  model = WriteTinyModel(RaggedSpec(), Format::kBf16, 1);
  Overwrite(model, Find(model, "model.norm.weight").tensor.spec().begin(), "\xc0\x7f");
  ExpectRefused(LoadAlone(model), Reason::kNonFinite, "norm");
}

TEST(Load, RefusesMissingScalesFilesAndMemory) {
  TinyModel model = WriteTinyModel(RaggedSpec(), Format::kInt8, 1);
  v1::ServePlan plan = PlanOf(model, 1);
  for (v1::RankTensor& tensor : *plan.mutable_ranks(0)->mutable_tensors()) {
    if (tensor.tensor().spec().name() == "model.layers.1.self_attn.k_proj.weight")
      tensor.clear_scale();
  }
  const auto group = MakeLocalGroup(1);
  ExpectRefused(LoadRank(model, plan, 0, group[0].get()).status(), Reason::kBadCheckpoint,
                "model.layers.1.self_attn.k_proj.weight");
  ExpectRefused(LoadAlone(model, 100'000), Reason::kOutOfMemory, "budget");

  const v1::ServePlan whole = PlanOf(model, 1);
  model.dir += "-gone";
  ExpectRefused(LoadRank(model, whole, 0, group[0].get()).status(), Reason::kInputMissing,
                "model.safetensors");
}

TEST(Load, ReadsOnlyItsSlices) {
  // What rank 1 owns is spoilt; rank 0 does not notice, rank 1 does.
  const TinyModel model = WriteTinyModel(RaggedSpec(), Format::kBf16, 1);
  const v1::ServePlan plan = PlanOf(model, 2);
  for (const v1::RankTensor& tensor : plan.ranks(1).tensors()) {
    if (!tensor.has_slice()) continue;
    const v1::TensorSpec& spec = tensor.tensor().spec();
    const int64_t columns = spec.shape_size() > 1 ? spec.shape(1) : 1;
    const int64_t element = tensor.slice().begin() * (tensor.slice().axis() == 0 ? columns : 1);
    Overwrite(model, spec.begin() + static_cast<uint64_t>(element) * 2, "\xc0\x7f");
  }
  const auto group = MakeLocalGroup(2);
  EXPECT_TRUE(LoadRank(model, plan, 0, group[0].get()).ok());
  ExpectRefused(LoadRank(model, plan, 1, group[1].get()).status(), Reason::kNonFinite, "head");
}

TEST(Run, RefusesStepsOutsideThePlan) {
  const TinyModel model = WriteTinyModel(RaggedSpec(), Format::kBf16, 1);
  const v1::ServePlan plan = PlanOf(model, 1);
  const auto group = MakeLocalGroup(1);
  auto runner = LoadRank(model, plan, 0, group[0].get());
  ASSERT_TRUE(runner.ok());
  EXPECT_EQ((*runner)->kv_block_count(), 8u);
  EXPECT_GT((*runner)->resident_bytes(), (*runner)->weight_bytes().all());
  Logits logits;
  const auto run = [&](uint32_t start, std::vector<int32_t> tokens, std::vector<uint32_t> blocks) {
    v1::Step step;
    v1::StepChunk* chunk = step.add_chunks();
    chunk->set_start(start);
    chunk->set_logits_last(true);
    for (const int32_t token : tokens) chunk->add_tokens(token);
    for (const uint32_t block : blocks) chunk->add_blocks(block);
    return (*runner)->Run(step, &logits);
  };
  ExpectRefused(run(0, {131}, {0}), Reason::kBadRequest, "token 131");
  ExpectRefused(run(0, {-1}, {0}), Reason::kBadRequest, "token -1");
  ExpectRefused(run(32, {1}, {0}), Reason::kBadRequest, "1 cache blocks for 33 tokens");
  ExpectRefused(run(0, {1}, {8}), Reason::kBadRequest, "no cache block 8");
  ExpectRefused(run(256, {1}, {0, 1, 2, 3, 4, 5, 6, 7, 0}), Reason::kBadRequest, "position 256");
  ExpectRefused(run(0, {}, {}), Reason::kBadRequest, "empty");
  ASSERT_TRUE(run(0, {1, 2, 3}, {5}).ok());
  EXPECT_EQ(logits.rows, 1);
  EXPECT_EQ(logits.values.size(), 131u);
  ASSERT_TRUE((*runner)->Run(v1::Step(), &logits).ok());
  EXPECT_EQ(logits.rows, 0);
}

// Codes of a cache have no NaN: the rank with such a key has to tell the others in another way.
TEST(Run, KeysThatAreNoNumbersAreAnErrorOnEveryRank) {
  const TinyModel model = WriteTinyModel(RaggedSpec(), Format::kFp8Static, 1, true);
  Overwrite(model, Find(model, "model.layers.0.self_attn.k_proj.weight").scale->begin(),
            "\x61\x7f");  // 3e38
  for (const uint32_t ranks : {1u, 2u, 3u}) {
    const v1::ServePlan plan = PlanOf(model, ranks);
    const auto group = MakeLocalGroup(static_cast<int>(ranks));
    std::vector<absl::Status> ended(ranks);
    std::vector<std::thread> threads;
    for (uint32_t rank = 0; rank < ranks; ++rank) {
      threads.emplace_back([&, rank] {
        const auto runner = LoadRank(model, plan, rank, group[rank].get());
        ASSERT_TRUE(runner.ok()) << runner.status();
        v1::Step step;
        v1::StepChunk* chunk = step.add_chunks();
        for (const int32_t token : {3, 1, 4}) chunk->add_tokens(token);
        chunk->add_blocks(0);
        ended[rank] = (*runner)->Run(step, nullptr);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const absl::Status& status : ended) {
      ExpectRefused(status, Reason::kNonFinite,
                    ranks == 1 ? "layers.0.self_attn.o_proj" : "layers.0.mlp.gate_proj");
    }
  }
}

TEST(Run, EndsWithTheGroup) {
  const TinyModel model = WriteTinyModel(RaggedSpec(), Format::kBf16, 1);
  const auto group = MakeLocalGroup(2);
  auto runner = LoadRank(model, PlanOf(model, 2), 0, group[0].get());
  ASSERT_TRUE(runner.ok());
  group[1]->Abort("rank 1 was killed");
  v1::Step step;
  v1::StepChunk* chunk = step.add_chunks();
  chunk->add_tokens(1);
  chunk->add_blocks(0);
  Logits logits;
  ExpectRefused((*runner)->Run(step, &logits), Reason::kGroupLost, "killed");
}

}  // namespace
}  // namespace octavo::testing
