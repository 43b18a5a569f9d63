#include "core/checkpoint/synth.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/checkpoint/checkpoint.h"
#include "core/checkpoint/config_json.h"
#include "core/model/family.h"
#include "core/store/local_store.h"
#include "core/tensor/bare/float_bits.h"
#include "tests/fakes/memory_store.h"

namespace octavo {
namespace {

using testing::HasSubstr;

SynthSpec Small() {
  SynthSpec spec;
  spec.model.set_hidden_size(128);
  spec.model.set_intermediate_size(256);
  spec.model.set_layer_count(2);
  spec.model.set_head_count(4);
  spec.model.set_kv_head_count(2);
  spec.model.set_vocab_size(300);
  spec.threads = 1;
  return spec;
}

TEST(WriteSyntheticTest, MakesACheckpointThatOpens) {
  MemoryStore store;
  ASSERT_TRUE(WriteSynthetic(store, Small(), 1, "out").ok());
  const auto checkpoint = OpenCheckpoint(store, "out", Accept::kPlainOnly);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->files.size(), 1u);
  EXPECT_EQ(checkpoint->model.head_dim(), 32);
  EXPECT_EQ(checkpoint->model.dtype(), v1::BF16);
  EXPECT_EQ(checkpoint->model.eos_token_ids(0), 258);
  EXPECT_EQ(store.List("out")->size(), 5u);
  const auto tokenizer = ParseJsonObject(store.Get("out/tokenizer.json"), "t");
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_EQ((*tokenizer)["model"]["vocab"].size(), 300u);
  EXPECT_EQ((*tokenizer)["added_tokens"].size(), 3u);
  EXPECT_EQ(ReasonOf(WriteSynthetic(store, Small(), 1, "out")), Reason::kOutputExists);
}

// What is written is what the family's readers expect, down to every name and shape.
TEST(WriteSyntheticTest, MakesEveryFamily) {
  for (const Family& family : Families()) {
    MemoryStore store;
    SynthSpec spec = Small();
    spec.model.set_family(std::string(family.name));
    spec.shard_bytes_max = 200'000;
    const absl::Status made = WriteSynthetic(store, spec, 1, "out");
    ASSERT_TRUE(made.ok()) << family.name << ": " << made;
    const auto checkpoint = OpenCheckpoint(store, "out", Accept::kPlainOnly);
    ASSERT_TRUE(checkpoint.ok()) << family.name << ": " << checkpoint.status();
    EXPECT_EQ(checkpoint->model.family(), family.name);
    EXPECT_EQ(checkpoint->model.architecture(), family.architecture);
    EXPECT_EQ(checkpoint->model.max_position(), 2048);
  }
}

TEST(WriteSyntheticTest, ShardsLikeTheHub) {
  MemoryStore store;
  SynthSpec spec = Small();
  spec.shard_bytes_max = 200'000;
  ASSERT_TRUE(WriteSynthetic(store, spec, 1, "out").ok());
  const auto checkpoint = OpenCheckpoint(store, "out", Accept::kPlainOnly);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_GT(checkpoint->files.size(), 2u);
  for (const auto& file : checkpoint->files) EXPECT_LT(file.size(), 204'096u);
  // The same weights, wherever they lie.
  ASSERT_TRUE(WriteSynthetic(store, Small(), 1, "single").ok());
  const auto single = OpenCheckpoint(store, "single", Accept::kPlainOnly);
  ASSERT_TRUE(single.ok());
  for (size_t i = 0; i < single->tensors.size(); ++i) {
    const v1::TensorSpec& a = checkpoint->tensors[i].spec();
    const v1::TensorSpec& b = single->tensors[i].spec();
    ASSERT_EQ(a.name(), b.name());
    EXPECT_EQ(store.Get("out/" + a.file()).substr(a.begin(), a.end() - a.begin()),
              store.Get("single/" + b.file()).substr(b.begin(), b.end() - b.begin()))
        << a.name();
  }
}

TEST(WriteSyntheticTest, BytesDependOnTheSeedNotOnThreads) {
  namespace fs = std::filesystem;
  std::string root = testing::TempDir() + "octavo-synth-XXXXXX";
  ASSERT_NE(::mkdtemp(root.data()), nullptr);
  SynthSpec spec = Small();
  spec.model.set_vocab_size(40'000);  // several chunks
  const auto digest = [&](const char* name, uint64_t seed, int threads) {
    spec.threads = threads;
    const std::string out = root + "/" + name;
    EXPECT_TRUE(WriteSynthetic(spec, seed, out).ok());
    return DigestOf(*ReadWhole(LocalStore(), out + "/model.safetensors", 1 << 28)).Hex();
  };
  const std::string one = digest("a", 7, 1);
  EXPECT_EQ(digest("b", 7, 5), one);
  EXPECT_NE(digest("c", 8, 5), one);
  fs::remove_all(root);
}

TEST(WriteSyntheticTest, ValuesAreDistributedAsPromised) {
  MemoryStore store;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    SynthSpec spec = Small();
    spec.dtype = dtype;
    const std::string dir = std::string(Name(dtype));
    ASSERT_TRUE(WriteSynthetic(store, spec, 3, dir).ok());
    const auto checkpoint = OpenCheckpoint(store, dir, Accept::kPlainOnly);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    for (const v1::ModelTensor& tensor : checkpoint->tensors) {
      const v1::TensorSpec& spec_of = tensor.spec();
      const std::string& file = store.Get(dir + "/" + spec_of.file());
      const uint64_t size = static_cast<uint64_t>(ByteSize(dtype));
      double sum = 0, squares = 0;
      const double count = static_cast<double>((spec_of.end() - spec_of.begin()) / size);
      for (uint64_t at = spec_of.begin(); at < spec_of.end(); at += size) {
        uint32_t bits = 0;
        std::memcpy(&bits, file.data() + at, size);
        const uint16_t low = static_cast<uint16_t>(bits);
        const double value = dtype == DType::kF32    ? FloatFromBits(bits)
                             : dtype == DType::kBF16 ? F32FromBf16(low)
                                                     : F32FromF16(low);
        sum += value;
        squares += value * value;
      }
      const bool norm = spec_of.shape_size() == 1;
      const double mean = sum / count, deviation = std::sqrt(squares / count - mean * mean);
      const double want = norm ? 0.1
                          : tensor.role() == v1::EMBEDDING
                              ? 1.0
                              : 1.0 / std::sqrt(static_cast<double>(spec_of.shape(1)));
      EXPECT_NEAR(mean, norm ? 1.0 : 0.0, 5 * want / std::sqrt(count)) << spec_of.name();
      EXPECT_NEAR(deviation, want, 5 * want / std::sqrt(count)) << spec_of.name();
    }
  }
}

TEST(WriteSyntheticTest, SmallVocabulariesHaveNoTokenizer) {
  MemoryStore store;
  SynthSpec spec = Small();
  spec.model.set_vocab_size(64);
  ASSERT_TRUE(WriteSynthetic(store, spec, 1, "out").ok());
  EXPECT_FALSE(store.Exists("out/tokenizer.json"));
}

TEST(WriteSyntheticTest, RefusesByName) {
  MemoryStore store;
  SynthSpec spec = Small();
  spec.model.set_family("gpt2");
  const absl::Status unknown = WriteSynthetic(store, spec, 1, "out");
  EXPECT_EQ(ReasonOf(unknown), Reason::kUnsupported);
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("gpt2"));
  spec = Small();
  spec.model.set_kv_head_count(3);
  EXPECT_EQ(ReasonOf(WriteSynthetic(store, spec, 1, "out")), Reason::kUsage);
  struct Case {
    const char* family;
    void (*change)(v1::ModelSpec&);
    const char* what;
  };
  const Case cases[] = {
      {"llama", [](v1::ModelSpec& m) { m.set_expert_count(4); }, "experts"},
      {"mixtral", [](v1::ModelSpec& m) { m.set_attention_bias(true); }, "biases"},
      {"qwen2", [](v1::ModelSpec& m) { m.set_clip_qkv(8); }, "clipping"},
      {"dbrx", [](v1::ModelSpec& m) { m.set_head_dim(64); }, "head dimension"},
  };
  for (const Case& c : cases) {
    spec = Small();
    spec.model.set_family(c.family);
    c.change(spec.model);
    const absl::Status status = WriteSynthetic(store, spec, 1, "out");
    EXPECT_EQ(ReasonOf(status), Reason::kUsage) << c.family;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.what));
  }
  spec = Small();
  spec.dtype = DType::kI8;
  EXPECT_EQ(ReasonOf(WriteSynthetic(store, spec, 1, "out")), Reason::kUsage);
  EXPECT_FALSE(store.Exists("out"));
}

}  // namespace
}  // namespace octavo
