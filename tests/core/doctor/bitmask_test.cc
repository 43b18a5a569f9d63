// Folders of 2:4 weights that are stored as kept codes and bitmasks: read as if they lay in full.

#include <cstring>
#include <functional>

#include "core/base/error.h"
#include "core/checkpoint/bitmask_storage.h"
#include "core/checkpoint/convert_dialect.h"
#include "core/checkpoint/summary.h"
#include "core/store/local_store.h"
#include "core/tensor/bare/two_of_four.h"
#include "gmock/gmock.h"
#include "tests/core/checkpoint/quantized_folder.h"
#include "tests/core/doctor/edited_folder.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

const std::string kO = "model.layers.0.self_attn.o_proj";
const std::string kDown = "model.layers.1.mlp.down_proj";

// Makes the weights of a folder 2:4, and stores them so where `packed`.
void Halve(bool packed, EditedFolder* folder) {
  const auto all = folder->tensors;
  for (const auto& [name, tensor] : all) {
    if (!name.ends_with("_proj.weight")) continue;
    const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
    const int64_t row_bits = BitmaskRowBytes(columns);
    EditedTensor whole = tensor;
    for (size_t i = 0; i < whole.bytes.size(); i += 4) {
      whole.bytes[i + (i / 4) % 3] = 0;
      whole.bytes[i + 3] = 0;
    }
    if (!packed) {
      folder->tensors[name] = whole;
      continue;
    }
    const std::string module(ModuleName(name));
    const BitmaskParts parts = BitmaskPartsOf(module, tensor.dtype, rows, columns);
    std::string kept(static_cast<size_t>(rows * columns / 2), '\0');
    std::string bits(static_cast<size_t>(rows * row_bits), '\0');
    for (int64_t row = 0; row < rows; ++row) {
      ASSERT_EQ(PackTwoOfFour(reinterpret_cast<uint8_t*>(whole.bytes.data()) + row * columns,
                              columns, tensor.dtype == DType::kF8E4M3,
                              reinterpret_cast<uint8_t*>(kept.data()) + row * columns / 2,
                              reinterpret_cast<uint8_t*>(bits.data()) + row * row_bits),
                -1);
    }
    folder->tensors.erase(name);
    folder->tensors[parts.kept.name] = {parts.kept.dtype, parts.kept.shape, kept};
    folder->tensors[parts.bits.name] = {parts.bits.dtype, parts.bits.shape, bits};
    folder->tensors[parts.shape.name] = {parts.shape.dtype, parts.shape.shape,
                                         BitmaskShapeBytes(rows, columns)};
  }
  if (packed) {
    nlohmann::ordered_json& config = folder->Quantization();
    config["sparsity_config"] = SparsityConfigJson(config["ignore"]);
  }
}

class BitmaskStorage : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    WriteTinyLlama({.hidden = 72, .intermediate = 172}, folder_ / "src");
    WriteQuantized(folder_ / "src", *Preset(GetParam()), folder_ / "noise");
    full_ = packed_ = LoadFolder(folder_ / "noise");
    Halve(false, &full_);
    Halve(true, &packed_);
    SaveFolder(full_, folder_ / "full");
    SaveFolder(packed_, folder_ / "packed");
  }
  std::string Weights(const std::string& name) {
    return ReadText(std::filesystem::path(folder_ / name) / "model.safetensors");
  }

  const TestFolder folder_;
  EditedFolder full_, packed_;
};

TEST_P(BitmaskStorage, IsReadAsIfItLayThereInFull) {
  const auto full = OpenCheckpoint(folder_ / "full");
  const auto packed = OpenCheckpoint(folder_ / "packed");
  ASSERT_TRUE(packed.ok()) << packed.status();
  ASSERT_EQ(packed->tensors.size(), full->tensors.size());
  int halved = 0;
  for (size_t i = 0; i < full->tensors.size(); ++i) {
    const v1::TensorSpec& one = full->tensors[i].spec();
    const v1::TensorSpec& other = packed->tensors[i].spec();
    EXPECT_EQ(one.name(), other.name());
    EXPECT_EQ(one.dtype(), other.dtype());
    EXPECT_EQ(std::vector<int64_t>(one.shape().begin(), one.shape().end()),
              std::vector<int64_t>(other.shape().begin(), other.shape().end()));
    if (!other.has_bitmask()) continue;
    ++halved;
    const int64_t rows = one.shape(0), columns = one.shape(1);
    EXPECT_EQ(StoredBytes(other), static_cast<uint64_t>(rows * (columns / 2 + (columns + 7) / 8)));
    std::vector<std::byte> codes;
    ASSERT_TRUE(ReadCodeRows(LocalStore(), folder_ / "packed", other, 3, 9, &codes).ok());
    EXPECT_EQ(std::memcmp(codes.data(), full_.At(one.name()).bytes.data() + 3 * columns,
                          static_cast<size_t>(9 * columns)),
              0);
  }
  EXPECT_EQ(halved, 14);
  EXPECT_LT(Summarize(*packed).bytes, Summarize(*full).bytes);
}

TEST_P(BitmaskStorage, ConvertsAndDequantizesToWhatTheFullFolderGives) {
  LocalStore store;
  for (const char* name : {"full", "packed"}) {
    const std::string from = folder_ / name;
    ASSERT_TRUE(Dequantize(store, from, folder_ / (std::string("plain-") + name)).ok());
    const auto done =
        ConvertDialect(store, from, "compressed-tensors", folder_ / (std::string("copy-") + name));
    ASSERT_TRUE(done.ok()) << done.status();
  }
  EXPECT_EQ(Weights("plain-full"), Weights("plain-packed"));
  EXPECT_EQ(Weights("copy-full"), Weights("copy-packed"));
  EXPECT_EQ(Weights("copy-full"), Weights("full"));
  const std::string config =
      ReadText(std::filesystem::path(folder_ / "copy-packed") / "config.json");
  EXPECT_EQ(config.find("sparsity_config"), std::string::npos);
}

TEST_P(BitmaskStorage, DoctorSaysWhoReadsIt) {
  const Examined found = Examine(folder_ / "packed");
  EXPECT_TRUE(found.codes.contains("sparsity-bitmask"));
  std::set<std::string> others = found.codes;
  others.erase("sparsity-bitmask");
  EXPECT_EQ(others, Examine(folder_ / "full").codes);
  EXPECT_EQ(found.diagnosis.Of(Reader::kOctavo), Verdict::kLoads) << found.folder.loader;
  EXPECT_EQ(found.diagnosis.Of(Reader::kVllm), Verdict::kRefused);
  EXPECT_EQ(found.diagnosis.Of(Reader::kTransformers), Verdict::kRefused);
}

TEST_P(BitmaskStorage, WhatDoesNotFitTogetherIsToldOfByName) {
  struct Wrong {
    std::function<void(EditedFolder&)> change;
    Reason reason;
    std::string tensor, what;
  };
  const std::vector<Wrong> wrongs = {
      {[](auto& f) { f.Drop(kO + ".bitmask"); }, Reason::kBadCheckpoint, kO + ".compressed",
       "its bitmask is missing"},
      {[](auto& f) { f.Drop(kO + ".shape"); }, Reason::kBadCheckpoint, kO + ".compressed",
       "its shape is missing"},
      {[](auto& f) { f.Drop(kO + ".compressed"); }, Reason::kBadCheckpoint, kO,
       "that it belongs to is missing"},
      {[](auto& f) { f.At(kDown + ".shape").bytes = BitmaskShapeBytes(72, 344); },
       Reason::kBadCheckpoint, kDown + ".compressed", "is not that of a 2:4 weight of [72, 344]"},
      {[](auto& f) { f.At(kDown + ".shape").bytes = BitmaskShapeBytes(-72, 172); },
       Reason::kBadCheckpoint, kDown + ".compressed", "of [-72, 172]"},
      {[](auto& f) {
         f.Put(kO + ".shape", DType::kF64, {2, 1});
       },
       Reason::kBadCheckpoint, kO + ".shape", "two I64 numbers"},
      {[](auto& f) {
         f.Put(kO + ".bitmask", DType::kU8, {72, 8});
       },
       Reason::kBadCheckpoint, kO + ".bitmask", "are not U8 [72, 9]"},
      {[](auto& f) {
         f.Put(kO + ".bitmask", DType::kI8, {72, 9});
       },
       Reason::kBadCheckpoint, kO + ".bitmask", "I8 [72, 9] are not U8"},
      {[](auto& f) {
         f.Put(kO + ".compressed", DType::kBF16, {72, 36});
       },
       Reason::kUnsupported, kO + ".compressed", "2:4 weights of dtype BF16"}};
  for (const Wrong& wrong : wrongs) {
    SCOPED_TRACE(wrong.what);
    EditedFolder folder = packed_;
    wrong.change(folder);
    SaveFolder(folder, folder_ / "wrong");
    const auto opened = OpenCheckpoint(folder_ / "wrong");
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(ReasonOf(opened.status()), wrong.reason) << opened.status();
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(wrong.what));
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr(wrong.tensor));
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr("model.safetensors"));
    const Examined found = Examine(folder_ / "wrong");
    EXPECT_EQ(found.diagnosis.Of(Reader::kOctavo), Verdict::kRefused);
  }
  // What only the bytes tell.
  EditedFolder folder = packed_;
  folder.At(kO + ".bitmask").bytes[9 * 5 + 1] = '\x77';
  SaveFolder(folder, folder_ / "wrong");
  LocalStore store;
  const auto done = Dequantize(store, folder_ / "wrong", folder_ / "out");
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(ReasonOf(done.status()), Reason::kBadCheckpoint);
  EXPECT_THAT(std::string(done.status().message()), HasSubstr(kO));
  EXPECT_THAT(std::string(done.status().message()), HasSubstr("two of four"));
}

INSTANTIATE_TEST_SUITE_P(Codes, BitmaskStorage, ::testing::Values("fp8-dynamic", "int8-dynamic"),
                         [](const auto& given) { return std::string(given.param).substr(0, 3); });

}  // namespace
}  // namespace octavo
