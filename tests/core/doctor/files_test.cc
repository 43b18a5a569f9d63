// What doctor finds in folders whose files do not belong together.

#include <functional>

#include "core/doctor/diagnosis.h"
#include "core/store/local_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/core/doctor/edited_folder.h"

namespace octavo {
namespace {

using ::testing::IsEmpty;

class Files : public ::testing::Test {
 protected:
  void SetUp() override {
    TinyLlama tiny;
    tiny.shards = 2;
    WriteTinyLlama(tiny, dir_);
    WriteText(dir_ + "/generation_config.json", "{}");
    ASSERT_THAT(Examine(dir_).codes, IsEmpty());
  }
  std::string Only() {
    const Examined found = Examine(dir_);
    EXPECT_FALSE(found.diagnosis.loader_knows_more) << found.folder.loader;
    EXPECT_EQ(found.codes.size(), 1u);
    return found.codes.empty() ? "" : *found.codes.begin();
  }
  void EditIndex(const std::function<void(nlohmann::ordered_json&)>& change) {
    const std::string path = dir_ + "/" + std::string(kIndexFileName);
    auto json = nlohmann::ordered_json::parse(ReadText(path));
    change(json["weight_map"]);
    WriteText(path, json.dump());
  }

  TestFolder scratch_;
  std::string dir_ = scratch_ / "model";
  std::string first_ = dir_ + "/model-00001-of-00002.safetensors";
  std::string second_ = dir_ + "/model-00002-of-00002.safetensors";
};

TEST_F(Files, ConfigIsMissing) {
  std::filesystem::remove(dir_ + "/config.json");
  EXPECT_EQ(Only(), "config-missing");
}

TEST_F(Files, ConfigIsCut) {
  WriteText(dir_ + "/config.json", R"({"model_type": "llama",)");
  EXPECT_EQ(Only(), "config-malformed");
}

TEST_F(Files, FamilyIsUnknown) {
  WriteText(dir_ + "/config.json", R"({"model_type": "mamba", "architectures": ["M"]})");
  EXPECT_EQ(Only(), "family-unknown");
  EXPECT_EQ(Examine(dir_).diagnosis.Of(Reader::kVllm), Verdict::kUnknown);
}

TEST_F(Files, ShardIsMissing) {
  std::filesystem::remove(second_);
  EXPECT_EQ(Only(), "shard-missing");
}

TEST_F(Files, ShardIsCut) {
  std::filesystem::resize_file(second_, std::filesystem::file_size(second_) - 1);
  EXPECT_EQ(Only(), "header-malformed");
}

TEST_F(Files, ShardIsNotIndexed) {
  std::filesystem::copy_file(second_, dir_ + "/model-00003-of-00003.safetensors");
  EXPECT_EQ(Only(), "shard-not-indexed");
}

TEST_F(Files, IndexIsMissing) {
  std::filesystem::remove(dir_ + "/" + std::string(kIndexFileName));
  EXPECT_EQ(Only(), "index-missing");
}

TEST_F(Files, IndexIsCut) {
  WriteText(dir_ + "/" + std::string(kIndexFileName), R"({"weight_map": {)");
  EXPECT_EQ(Only(), "index-malformed");
}

TEST_F(Files, IndexLeadsNowhere) {
  EditIndex([](auto& map) { map["model.nothing"] = "model-00001-of-00002.safetensors"; });
  EXPECT_EQ(Only(), "index-names-nothing");
}

TEST_F(Files, IndexLacksATensor) {
  EditIndex([](auto& map) { map.erase("model.norm.weight"); });
  EXPECT_EQ(Only(), "index-lacks-tensor");
}

TEST_F(Files, IndexNamesTheOtherFile) {
  EditIndex([](auto& map) {
    std::string& file = map["model.norm.weight"].template get_ref<std::string&>();
    file[10] = file[10] == '1' ? '2' : '1';
  });
  EXPECT_EQ(Only(), "index-names-other-file");
}

TEST_F(Files, TensorIsInTwoFiles) {
  const std::string bytes = ReadText(first_);
  WriteText(second_, bytes);
  const Examined found = Examine(dir_);
  EXPECT_TRUE(found.codes.contains("tensor-twice"));
  EXPECT_EQ(found.diagnosis.Of(Reader::kOctavo), Verdict::kRefused);
}

TEST_F(Files, TokenizerIsMissing) {
  std::filesystem::remove(dir_ + "/tokenizer.json");
  EXPECT_EQ(Only(), "tokenizer-missing");
}

TEST_F(Files, WeightsAreMissing) {
  for (const auto& name : {first_, second_, dir_ + "/" + std::string(kIndexFileName)}) {
    std::filesystem::remove(name);
  }
  EXPECT_EQ(Only(), "weights-missing");
}

TEST_F(Files, AnEmptyFolderIsNoCrash) {
  std::filesystem::remove_all(dir_);
  std::filesystem::create_directories(dir_);
  EXPECT_EQ(Examine(dir_).diagnosis.Of(Reader::kOctavo), Verdict::kRefused);
  EXPECT_FALSE(ReadFolder(LocalStore(), dir_ + "/none", Depth::kHeaders).ok());
}

TEST_F(Files, HeadersAloneAreEnoughForShapes) {
  const auto folder = ReadFolder(LocalStore(), dir_, Depth::kHeaders);
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_TRUE(folder->values.contains("model.norm.weight"));
  EXPECT_FALSE(folder->values.contains("model.embed_tokens.weight"));
  EXPECT_THAT(Diagnose(*folder).findings, IsEmpty());
}

}  // namespace
}  // namespace octavo
