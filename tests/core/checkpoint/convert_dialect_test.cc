#include "core/checkpoint/convert_dialect.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/checkpoint/compressed_tensors.h"
#include "core/checkpoint/synth.h"
#include "core/scheme/legality.h"
#include "core/store/local_store.h"
#include "core/tensor/bare/float_bits.h"
#include "core/tensor/bare/fp8.h"
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

SynthSpec TinyDbrx() {
  SynthSpec synth;
  synth.model.set_family("dbrx");
  synth.model.set_layer_count(1);
  synth.model.set_hidden_size(64);
  synth.model.set_intermediate_size(96);
  synth.model.set_head_count(4);
  synth.model.set_kv_head_count(2);
  synth.model.set_vocab_size(300);
  synth.model.set_expert_count(3);
  return synth;
}

TEST(ConvertDialect, StackedExperts) {
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(TinyDbrx(), 3, folder / "src").ok());
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

// What a quantized folder holds, one element at a time.
float ValueOf(const std::string& codes, const std::string& scales, const std::string& kind,
              size_t element, size_t columns) {
  const bool int8 = kind == "int8-dynamic";
  const auto bits = static_cast<uint8_t>(codes[element]);
  const float code = int8 ? static_cast<int8_t>(bits) : F32FromFp8(bits);
  const size_t row = element / columns;
  const size_t column = element % columns;
  const bool wide = kind == "fp8-static";  // F32, one
  const size_t index = wide                  ? 0
                       : kind == "fp8-block" ? row / 128 * ((columns + 127) / 128) + column / 128
                                             : row;
  uint32_t scale = 0;
  std::memcpy(reinterpret_cast<char*>(&scale) + (wide ? 0 : 2),
              scales.data() + index * (wide ? 4 : 2), wide ? 4 : 2);
  return code * FloatFromBits(scale);
}

TEST(Dequantize, IsCodeTimesScaleInTheModelsType) {
  for (const std::string kind : {"fp8-dynamic", "fp8-block", "int8-dynamic", "fp8-static"}) {
    const TestFolder folder;
    WriteTinyLlama({.hidden = 256, .intermediate = 384, .layers = 2, .shards = 2, .tied = false},
                   folder / "src");
    WriteQuantized(folder / "src", *Preset(kind), folder / "small");
    LocalStore store;
    const auto done = Dequantize(store, folder / "small", folder / "plain");
    ASSERT_TRUE(done.ok()) << done.status();
    EXPECT_EQ(done->scales, 0u);
    const auto plain = OpenCheckpoint(store, folder / "plain", Accept::kPlainOnly);
    ASSERT_TRUE(plain.ok()) << plain.status();
    auto before = Tensors(folder / "small");
    auto after = Tensors(folder / "plain");
    auto shapes = Tensors(folder / "src");
    ASSERT_EQ(after.size(), shapes.size());
    int weights = 0;
    for (const auto& [name, tensor] : after) {
      EXPECT_EQ(tensor.first, shapes[name].first) << name;
      if (before[name].first == tensor.first) {
        EXPECT_EQ(tensor.second, before[name].second) << name;
        continue;
      }
      ++weights;
      const std::string& codes = before[name].second;
      const std::string& scales = before[name + "_scale"].second;
      const size_t columns = std::stoul(tensor.first.substr(tensor.first.rfind(' ')));
      for (size_t i = 0; i < codes.size(); ++i) {
        uint16_t bits;
        std::memcpy(&bits, tensor.second.data() + 2 * i, 2);
        ASSERT_EQ(bits, Bf16FromF32(ValueOf(codes, scales, kind, i, columns))) << name << " " << i;
      }
    }
    EXPECT_EQ(weights, 14);
  }
}

TEST(Dequantize, StacksLoseTheirSuffixAndEveryExpertHasItsScale) {
  const TestFolder folder;
  ASSERT_TRUE(WriteSynthetic(TinyDbrx(), 3, folder / "src").ok());
  WriteQuantized(folder / "src", In("fp8-static-kv", kFp8Dialect), folder / "fp8");
  LocalStore store;
  ASSERT_TRUE(Dequantize(store, folder / "fp8", folder / "plain").ok());
  auto before = Tensors(folder / "fp8");
  auto after = Tensors(folder / "plain");
  const auto source = Tensors(folder / "src");
  ASSERT_EQ(after.size(), source.size());
  for (const auto& [name, tensor] : source) EXPECT_EQ(after[name].first, tensor.first) << name;
  const std::string stack = "transformer.blocks.0.ffn.experts.mlp.w2";
  for (size_t i = 0; i < 288 * 64; ++i) {
    float scale;
    std::memcpy(&scale, before[stack + "_weight_scale"].second.data() + i / (96 * 64) * 4, 4);
    const auto code = static_cast<uint8_t>(before[stack + "_weight"].second[i]);
    uint16_t bits;
    std::memcpy(&bits, after[stack].second.data() + 2 * i, 2);
    ASSERT_EQ(bits, Bf16FromF32(F32FromFp8(code) * scale)) << i;
  }
}

TEST(Dequantize, RefusesPlainFoldersAndBrokenScales) {
  const TestFolder folder;
  LocalStore store;
  WriteTinyLlama({.layers = 1}, folder / "src");
  EXPECT_EQ(ReasonOf(Dequantize(store, folder / "src", folder / "out").status()),
            Reason::kUnsupported);
  WriteQuantized(folder / "src", In("fp8-static", kFp8Dialect), folder / "fp8");
  const auto checkpoint = OpenCheckpoint(folder / "fp8");
  for (const v1::ModelTensor& tensor : checkpoint->tensors) {
    if (tensor.spec().name() != "model.layers.0.self_attn.o_proj.weight_scale") continue;
    std::string bytes = ReadText(folder / "fp8/model.safetensors");
    bytes.replace(tensor.spec().begin(), 4, std::string(4, '\0'));
    WriteText(folder / "fp8/model.safetensors", bytes);
  }
  const auto zero = Dequantize(store, folder / "fp8", folder / "out");
  EXPECT_EQ(ReasonOf(zero.status()), Reason::kNonFinite);
  EXPECT_THAT(std::string(zero.status().message()), HasSubstr("o_proj.weight_scale"));
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
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
