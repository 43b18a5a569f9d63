#include "core/text/text_bundle.h"

#include "core/base/error.h"
#include "gmock/gmock.h"
#include "tests/core/text/golden.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

class TextBundleTest : public ::testing::Test {
 protected:
  TextBundle LoadOrDie(const Json& config) {
    config_ = config.dump();
    files_.tokenizer_json = tokenizer_;
    files_.tokenizer_config_json = config_;
    auto bundle = LoadTextBundle(files_);
    EXPECT_TRUE(bundle.ok()) << bundle.status();
    return *std::move(bundle);
  }

  static std::string Template(const std::string& name) {
    for (const auto& c : ReadGoldenLines("chat.jsonl")) {
      if (c["name"] == name) return c["template"].get<std::string>();
    }
    ADD_FAILURE() << name;
    return "";
  }

  const std::string tokenizer_ = ReadGolden("llama3.tokenizer.json");
  std::string config_;
  TextFiles files_;
};

TEST_F(TextBundleTest, TakesTokensAndTemplateFromTheConfig) {
  const TextBundle bundle = LoadOrDie({{"bos_token", "<|begin_of_text|>"},
                                       {"eos_token", {{"content", "<|eot_id|>"}}},
                                       {"chat_template", Template("llama3")}});
  EXPECT_EQ(bundle.bos_text, "<|begin_of_text|>");
  EXPECT_EQ(bundle.bos_id, bundle.tokenizer->TokenId("<|begin_of_text|>"));
  EXPECT_EQ(bundle.eos_text, "<|eot_id|>");
  EXPECT_THAT(bundle.eos_ids, ElementsAre(*bundle.tokenizer->TokenId("<|eot_id|>")));
  ASSERT_TRUE(bundle.chat_template.has_value());
  const std::vector<ChatTurn> turns = {{"user", " hi "}};
  EXPECT_EQ(*bundle.chat_template->Render(turns, false),
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>");
}

TEST_F(TextBundleTest, TheTemplateFileWinsAndListsHaveADefault) {
  const Json list = {{{"name", "tool_use"}, {"template", "tools"}},
                     {{"name", "default"}, {"template", "default"}}};
  EXPECT_EQ(*LoadOrDie({{"chat_template", list}}).chat_template->Render({}, true), "default");
  files_.chat_template_jinja = "file";
  EXPECT_EQ(*LoadOrDie({{"chat_template", list}}).chat_template->Render({}, true), "file");
}

TEST_F(TextBundleTest, ATemplateSeesTheNamedTokensOfTheConfig) {
  const TextBundle bundle = LoadOrDie(
      {{"unk_token", nullptr},
       {"pad_token", {{"content", "<pad>"}}},
       {"chat_template", "{{ bos_token is defined }}{{ unk_token is defined }}{{ pad_token }}"}});
  EXPECT_EQ(*bundle.chat_template->Render({}, true), "FalseFalse<pad>");
}

TEST_F(TextBundleTest, AMissingOrUnhandledTemplateIsNoErrorButAReason) {
  const TextBundle none = LoadOrDie(Json::object());
  EXPECT_FALSE(none.chat_template.has_value());
  EXPECT_THAT(std::string(none.chat_template_error.message()), HasSubstr("no chat template"));
  EXPECT_EQ(none.bos_id, std::nullopt);
  EXPECT_TRUE(none.eos_ids.empty());
  const TextBundle other = LoadOrDie({{"chat_template", "\n{% include 'x' %}"}});
  EXPECT_FALSE(other.chat_template.has_value());
  EXPECT_EQ(ReasonOf(other.chat_template_error), Reason::kUnsupported);
  EXPECT_EQ(other.chat_template_error.message(),
            "tokenizer_config.json: chat template: line 2: the tag 'include' is not handled");
}

TEST_F(TextBundleTest, GenerationConfigDecidesWhatEndsATurn) {
  files_.generation_config_json = R"({"eos_token_id": [9, 3, 9]})";
  files_.config_json = R"({"eos_token_id": 5})";
  EXPECT_THAT(LoadOrDie({{"eos_token", "<|eot_id|>"}}).eos_ids, ElementsAre(3, 9));
  files_.generation_config_json = R"({"temperature": 1})";
  EXPECT_THAT(LoadOrDie({{"eos_token", "<|eot_id|>"}}).eos_ids, ElementsAre(5));
}

TEST_F(TextBundleTest, MalformedFilesAreNamed) {
  const std::pair<std::string_view TextFiles::*, const char*> cases[] = {
      {&TextFiles::tokenizer_json, "tokenizer.json"},
      {&TextFiles::tokenizer_config_json, "tokenizer_config.json"},
      {&TextFiles::generation_config_json, "generation_config.json"},
      {&TextFiles::config_json, "config.json"},
  };
  for (const auto& [member, name] : cases) {
    for (const char* content : {"{", "[]", R"({"eos_token_id": -1, "bos_token": 4})"}) {
      TextFiles files;
      files.tokenizer_json = tokenizer_;
      files.*member = content;
      const auto bundle = LoadTextBundle(files);
      ASSERT_FALSE(bundle.ok()) << name << content;
      EXPECT_THAT(std::string(bundle.status().message()), HasSubstr(name));
    }
  }
}

TEST_F(TextBundleTest, WithoutTokenizerJsonTheModelOfSentencePieceIsRead) {
  const std::string model = ReadGolden("spm_llama.model");
  const auto bundle = LoadTextBundle(
      {.tokenizer_model = model, .tokenizer_config_json = R"({"bos_token": "<s>"})"});
  ASSERT_TRUE(bundle.ok()) << bundle.status();
  EXPECT_EQ(bundle->bos_id, 1);
  EXPECT_EQ((*bundle->tokenizer->Encode("a", {}))[0], 1);
  const auto both = LoadTextBundle({.tokenizer_json = tokenizer_, .tokenizer_model = model});
  ASSERT_TRUE(both.ok()) << both.status();
  EXPECT_TRUE(both->tokenizer->TokenId("<|eot_id|>").has_value());
}

}  // namespace
}  // namespace octavo
