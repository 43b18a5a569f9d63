#include "core/checkpoint/convert_dialect.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/synth.h"
#include "core/scheme/legality.h"
#include "core/store/local_store.h"
#include "gmock/gmock.h"
#include "tests/core/checkpoint/quantized_folder.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

// Every tensor of a folder: "dtype [shape]" and its bytes.
std::map<std::string, std::pair<std::string, std::string>> Tensors(const std::string& dir) {
  std::map<std::string, std::pair<std::string, std::string>> out;
  const auto checkpoint = OpenCheckpoint(dir);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  for (const v1::ModelTensor& tensor : checkpoint->tensors) {
    const v1::TensorSpec& spec = tensor.spec();
    const std::string file = ReadText(std::filesystem::path(dir) / spec.file());
    std::string shape(Name(FromProto(spec.dtype())));
    for (const int64_t size : spec.shape()) shape += fmt::format(" {}", size);
    out[spec.name()] = {shape, file.substr(spec.begin(), spec.end() - spec.begin())};
  }
  return out;
}

std::map<std::string, std::string> Files(const std::string& dir) {
  std::map<std::string, std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    out[entry.path().filename().native()] = ReadText(entry.path());
  }
  return out;
}

v1::Recipe In(std::string_view preset, std::string_view dialect) {
  v1::Recipe recipe = *Preset(preset);
  recipe.set_dialect(std::string(dialect));
  return recipe;
}

absl::StatusOr<Conversion> Convert(const std::string& from, std::string_view dialect,
                                   const std::string& to) {
  LocalStore store;
  return ConvertDialect(store, from, dialect, to);
}

TEST(ConvertDialect, GivesTheFolderThatTheDialectWouldHaveWritten) {
  for (const std::string_view preset : {"fp8-static", "fp8-static-kv"}) {
    const TestFolder folder;
    WriteTinyLlama({.layers = 2, .shards = 2, .tied = false}, folder / "src");
    WriteQuantized(folder / "src", In(preset, kFp8Dialect), folder / "fp8");
    const std::map<std::string, std::string> fp8 = Files(folder / "fp8");
    // Around: scales lose nothing, and the last folder is the first, but for the observers' names.
    ASSERT_TRUE(Convert(folder / "fp8", kQuarkDialect, folder / "quark").ok());
    ASSERT_TRUE(Convert(folder / "quark", kCompressedTensors, folder / "ct").ok());
    const auto last = Convert(folder / "ct", kFp8Dialect, folder / "again");
    ASSERT_TRUE(last.ok()) << last.status();
    EXPECT_EQ(last->from, "compressed-tensors");
    EXPECT_EQ(last->scales, 2u * (preset == "fp8-static" ? 14 : 16));
    EXPECT_EQ(last->tensors, last->scales + 3 + 2 * 9);
    EXPECT_EQ(Files(folder / "again"), fp8);
    for (const std::string name : {"fp8", "quark", "ct"}) {
      const auto checkpoint = OpenCheckpoint(folder / name);
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
      const auto read = ReadQuantization(checkpoint->config, checkpoint->tensors);
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(read->cache_scales.size(), preset == "fp8-static" ? 0u : 2u);
      EXPECT_EQ(std::filesystem::exists(folder / name + "/tokenizer.json"), true);
    }
  }
}

TEST(ConvertDialect, CodesStayAndScalesAreRenamed) {
  const TestFolder folder;
  WriteTinyLlama({.layers = 1}, folder / "src");
  WriteQuantized(folder / "src", In("fp8-static-kv", kCompressedTensors), folder / "ct");
  ASSERT_TRUE(Convert(folder / "ct", kQuarkDialect, folder / "quark").ok());
  auto before = Tensors(folder / "ct");
  auto after = Tensors(folder / "quark");
  EXPECT_EQ(before.size(), after.size());
  const std::string at = "model.layers.0.self_attn.";
  EXPECT_EQ(before[at + "k_proj.weight"], after[at + "k_proj.weight"]);
  EXPECT_EQ(before[at + "k_scale"].first, "BF16 1");
  EXPECT_EQ(after[at + "k_proj.output_scale"].first, "F32");
  // BF16 is the upper half of F32.
  EXPECT_EQ(after[at + "k_proj.output_scale"].second,
            std::string(2, '\0') + before[at + "k_scale"].second);
  EXPECT_EQ(after[at + "q_proj.input_scale"].second,
            std::string(2, '\0') + before[at + "q_proj.input_scale"].second);
}

TEST(ConvertDialect, BlocksChangeTheirName) {
  const TestFolder folder;
  WriteTinyLlama({.hidden = 256, .intermediate = 384, .layers = 1}, folder / "src");
  WriteQuantized(folder / "src", *Preset("fp8-block"), folder / "ct");
  const auto done = Convert(folder / "ct", kFp8Dialect, folder / "fp8");
  ASSERT_TRUE(done.ok()) << done.status();
  auto after = Tensors(folder / "fp8");
  EXPECT_EQ(after["model.layers.0.mlp.down_proj.weight_scale_inv"].first, "F32 2 3");
  EXPECT_FALSE(after.contains("model.layers.0.mlp.down_proj.weight_scale"));
  EXPECT_EQ(ReasonOf(Convert(folder / "ct", kQuarkDialect, folder / "quark").status()),
            Reason::kBadRecipe);
}

TEST(ConvertDialect, StackedExperts) {
  SynthSpec synth;
  synth.model.set_family("dbrx");
  synth.model.set_layer_count(1);
  synth.model.set_hidden_size(64);
  synth.model.set_intermediate_size(96);
  synth.model.set_head_count(4);
  synth.model.set_kv_head_count(2);
  synth.model.set_vocab_size(300);
  synth.model.set_expert_count(3);
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(synth, 3, folder / "src").ok());
  WriteQuantized(folder / "src", In("fp8-static-kv", kFp8Dialect), folder / "fp8");
  auto before = Tensors(folder / "fp8");
  const std::string stack = "transformer.blocks.0.ffn.experts.mlp.w2";
  EXPECT_EQ(before[stack + "_weight"].first, "F8_E4M3 288 64");
  EXPECT_EQ(before[stack + "_weight_scale"].first, "F32 3");
  EXPECT_EQ(before[stack + "_input_scale"].first, "F32 3");
  const auto checkpoint = OpenCheckpoint(folder / "fp8");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto read = ReadQuantization(checkpoint->config, checkpoint->tensors);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->cache_scales.size(), 1u);
  EXPECT_EQ(std::count_if(read->tensors.begin(), read->tensors.end(),
                          [](const TensorQuantization& one) { return one.quantized; }),
            5);
  ASSERT_TRUE(Convert(folder / "fp8", kFp8Dialect, folder / "again").ok());
  EXPECT_EQ(Files(folder / "again"), Files(folder / "fp8"));
  for (const std::string_view dialect : {kCompressedTensors, kQuarkDialect}) {
    EXPECT_EQ(ReasonOf(Convert(folder / "fp8", dialect, folder / "out").status()),
              Reason::kBadRecipe);
  }
}

TEST(ConvertDialect, RefusesWhatTheDialectCannotSay) {
  const TestFolder folder;
  WriteTinyLlama({.layers = 1}, folder / "src");
  WriteQuantized(folder / "src", *Preset("fp8-dynamic"), folder / "channel");
  const auto channel = Convert(folder / "channel", kFp8Dialect, folder / "out");
  EXPECT_EQ(ReasonOf(channel.status()), Reason::kBadRecipe);
  EXPECT_THAT(std::string(channel.status().message()), HasSubstr("none per channel (fp8)"));
  const auto plain = Convert(folder / "src", kFp8Dialect, folder / "out");
  EXPECT_EQ(ReasonOf(plain.status()), Reason::kUnsupported);
  EXPECT_THAT(std::string(plain.status().message()), HasSubstr("not quantized"));
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));

  WriteQuantized(folder / "src", In("fp8-static", kFp8Dialect), folder / "fp8");
  EXPECT_EQ(ReasonOf(Convert(folder / "fp8", kFp8Dialect, folder / "channel").status()),
            Reason::kOutputExists);
  // A scale that is no positive number.
  const auto checkpoint = OpenCheckpoint(folder / "fp8");
  for (const v1::ModelTensor& tensor : checkpoint->tensors) {
    if (tensor.spec().name() != "model.layers.0.self_attn.o_proj.input_scale") continue;
    std::string bytes = ReadText(folder / "fp8/model.safetensors");
    bytes.replace(tensor.spec().begin(), 4, std::string(4, '\0'));
    WriteText(folder / "fp8/model.safetensors", bytes);
  }
  const auto zero = Convert(folder / "fp8", kQuarkDialect, folder / "out");
  EXPECT_EQ(ReasonOf(zero.status()), Reason::kNonFinite);
  EXPECT_THAT(std::string(zero.status().message()), HasSubstr("o_proj.input_scale"));
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
}

}  // namespace
}  // namespace octavo
