#include "core/text/tokenizer_json.h"

#include "core/base/error.h"
#include "core/text/tokenizer.h"
#include "gmock/gmock.h"
#include "tests/core/text/golden.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

Json Golden() { return Json::parse(ReadGolden("llama3.tokenizer.json")); }

Json SmallFile() {
  return Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
    "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false,
                      "rstrip": false, "normalized": false, "special": true}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                      "use_regex": true},
    "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null,
              "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
              "byte_fallback": false, "ignore_merges": false,
              "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": ["a b"]}})");
}

absl::Status LoadStatus(const Json& file, const std::string& config = "") {
  return LoadTokenizer(file.dump(), config).status();
}

// Applies `patch` (RFC 7396) to the small file and expects an error that names `what`.
void ExpectRefused(const char* patch, Reason reason, const std::string& what) {
  Json file = SmallFile();
  file.merge_patch(Json::parse(patch));
  const absl::Status status = LoadStatus(file);
  ASSERT_FALSE(status.ok()) << patch;
  EXPECT_EQ(ReasonOf(status), reason) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokenizer.json"));
}

TEST(TokenizerJsonTest, ReadsTheSmallFile) {
  const auto tokenizer = LoadTokenizer(SmallFile().dump());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 5);
  EXPECT_THAT(*(*tokenizer)->Encode("ab<s>a b", {}), ElementsAre(2, 4, 0, 3, 1));
}

TEST(TokenizerJsonTest, MergesInBothSpellingsAreTheSame) {
  Json file = Golden();
  const auto pairs = LoadTokenizer(file.dump());
  for (Json& merge : file["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  const auto strings = LoadTokenizer(file.dump());
  ASSERT_TRUE(pairs.ok() && strings.ok());
  const std::string text = "Permission is hereby granted, free of charge, to any person";
  EXPECT_EQ(*(*pairs)->Encode(text, {}), *(*strings)->Encode(text, {}));
}

TEST(TokenizerJsonTest, UnknownComponentsAreRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"normalizer": {"type": "NFD"}})", "the normalizer NFD"},
      {R"({"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}})",
       "the normalizer Precompiled"},
      {R"({"normalizer": {"type": "Replace", "pattern": {"Regex": " +"}, "content": " "}})",
       "the pattern \"Regex\" of the normalizer Replace"},
      {R"({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}})",
       "Lowercase"},
      {R"({"pre_tokenizer": null})", "the decoder ByteLevel without the pre-tokenizer ByteLevel"},
      {R"({"pre_tokenizer": {"type": "Whitespace"}})", "the pre-tokenizer Whitespace"},
      {R"({"pre_tokenizer": {"type": "Sequence", "add_prefix_space": null, "trim_offsets": null,
           "use_regex": null, "pretokenizers": [{"type": "Digits", "individual_digits": true}]}})",
       "the decoder ByteLevel without the pre-tokenizer ByteLevel"},
      {R"({"pre_tokenizer": {"surprise": 1}})", "surprise"},
      {R"({"post_processor": {"type": "RobertaProcessing"}})", "RobertaProcessing"},
      {R"({"decoder": null})", "missing decoder"},
      {R"({"decoder": {"type": "Metaspace"}})",
       "the pre-tokenizer ByteLevel without the decoder ByteLevel"},
      {R"({"model": {"type": "Unigram"}})", "Unigram"},
      {R"({"model": {"byte_fallback": true}})", "byte_fallback with the pre-tokenizer ByteLevel"},
      {R"({"model": {"dropout": 0.1}})", "dropout"},
      {R"({"model": {"end_of_word_suffix": "</w>"}})", "end_of_word_suffix"},
      {R"({"version": "2.0"})", "version \"2.0\""},
      {R"({"extra": 1})", "extra"},
  };
  for (const auto& [patch, what] : cases) ExpectRefused(patch, Reason::kUnsupported, what);
}

TEST(TokenizerJsonTest, SplitsOfOtherKindsAreRefusedByName) {
  Json file = Golden();
  Json& split = file["pre_tokenizer"]["pretokenizers"][0];
  ASSERT_EQ(split["type"], "Split");
  split["behavior"] = "MergedWithNext";
  absl::Status status = LoadStatus(file);
  EXPECT_EQ(ReasonOf(status), Reason::kUnsupported);
  EXPECT_THAT(std::string(status.message()), HasSubstr("MergedWithNext"));
  split["behavior"] = "Isolated";
  split["pattern"] = {{"Regex", "(a"}};
  status = LoadStatus(file);
  EXPECT_EQ(ReasonOf(status), Reason::kBadCheckpoint);
  EXPECT_THAT(std::string(status.message()), HasSubstr("regular expression"));
  split["pattern"] = {{"Glob", "a"}};
  EXPECT_EQ(ReasonOf(LoadStatus(file)), Reason::kUnsupported);
}

TEST(TokenizerJsonTest, MalformedFilesAreErrors) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"model": null})", "no \"model\""},
      {R"({"model": {"vocab": null}})", "vocab"},
      {R"({"model": {"vocab": {"a": -1}}})", "the id of \"a\""},
      {R"({"model": {"vocab": {"a": 1.5}}})", "the id of \"a\""},
      {R"({"model": {"vocab": {"a": 1048576}}})", "the id of \"a\""},
      {R"({"model": {"vocab": {"c": 1}}})", "the same id 1"},
      {R"({"model": {"vocab": {"": 7}}})", "0 bytes"},
      {R"({"model": {"merges": ["a c"]}})", "merge 0"},
      {R"({"model": {"merges": ["ab"]}})", "merge 0"},
      {R"({"model": {"merges": ["a b c"]}})", "merge 0"},
      {R"({"model": {"merges": [["a"]]}})", "merge 0"},
      {R"({"model": {"merges": 5}})", "merges"},
      {R"({"model": {"unk_token": "zzz"}})", "unk_token"},
      {R"({"model": {"ignore_merges": "yes"}})", "ignore_merges"},
      {R"({"added_tokens": 5})", "added_tokens"},
      {R"({"added_tokens": [{"id": 1}]})", "content"},
      {R"({"added_tokens": [{"id": 1, "content": "<x>"}]})", "the same id 1"},
      {R"({"added_tokens": [{"id": 9, "content": "ab"}]})", "vocabulary says 2"},
      {R"({"added_tokens": [{"content": "<x>"}]})", "the id of \"<x>\""},
      {R"({"added_tokens": [{"id": 8, "content": "q"}, {"id": 9, "content": "q"}]})", "twice"},
      {R"({"post_processor": {"type": "TemplateProcessing"}})", "single"},
      {R"({"post_processor": {"type": "TemplateProcessing", "single": []}})",
       "leaves the text out"},
      {R"({"post_processor": {"type": "TemplateProcessing", "single":
           [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}]}})",
       "without its ids"},
      {R"({"post_processor": {"type": "TemplateProcessing", "single":
           [{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}],
           "special_tokens": {"x": {"ids": [99]}}}})",
       "does not exist"},
  };
  for (const auto& [patch, what] : cases) ExpectRefused(patch, Reason::kBadCheckpoint, what);
}

TEST(TokenizerJsonTest, BrokenJsonIsAnErrorWithItsOffset) {
  const std::string good = SmallFile().dump();
  const absl::Status cut = LoadTokenizer(good.substr(0, good.size() / 2)).status();
  EXPECT_EQ(ReasonOf(cut), Reason::kBadCheckpoint);
  EXPECT_THAT(std::string(cut.message()), HasSubstr("byte offset"));
  EXPECT_EQ(ReasonOf(LoadTokenizer("").status()), Reason::kBadCheckpoint);
  EXPECT_EQ(ReasonOf(LoadTokenizer("[]").status()), Reason::kBadCheckpoint);
  const absl::Status twice = LoadTokenizer(R"({"model": 1, "model": 2})").status();
  EXPECT_THAT(std::string(twice.message()), HasSubstr("\"model\" is there twice"));
  const absl::Status deep = LoadTokenizer(std::string(1000, '[')).status();
  EXPECT_THAT(std::string(deep.message()), HasSubstr("nested deeper than 64"));
  std::string many = "[1";
  for (int i = 0; i < 4'100'000; ++i) many += ",1";
  EXPECT_THAT(std::string(LoadTokenizer(many + "]").status().message()),
              HasSubstr("more than 4000000 values"));
}

TEST(TokenizerJsonTest, TokensOfTheConfigAreAdded) {
  const std::string config = R"({"added_tokens_decoder": {
      "4": {"content": "<s>", "special": true}, "7": {"content": "<new>", "special": true}}})";
  const auto tokenizer = LoadTokenizer(SmallFile().dump(), config);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("a<new>b", {}), ElementsAre(0, 7, 1));
  EXPECT_EQ((*tokenizer)->vocab_size(), 8);
  EXPECT_EQ((*tokenizer)->TokenBytes(5), "");
  for (const char* bad :
       {R"({"added_tokens_decoder": {"x": {"content": "<new>"}}})",
        R"({"added_tokens_decoder": {"9": {}}})", R"({"added_tokens_decoder": 5})", "{"}) {
    EXPECT_EQ(ReasonOf(LoadStatus(SmallFile(), bad)), Reason::kBadCheckpoint) << bad;
  }
}

TEST(TokenizerJsonTest, UnknownBytesFollowTheModel) {
  Json file = SmallFile();
  // They vanish, and their neighbours merge.
  EXPECT_THAT(*(*LoadTokenizer(file.dump()))->Encode("axxb", {}), ElementsAre(2));
  file["model"]["vocab"]["<unk>"] = 5;
  file["model"]["unk_token"] = "<unk>";
  EXPECT_THAT(*(*LoadTokenizer(file.dump()))->Encode("axxb", {}), ElementsAre(0, 5, 5, 1));
  file["model"]["fuse_unk"] = true;
  EXPECT_THAT(*(*LoadTokenizer(file.dump()))->Encode("axxb", {}), ElementsAre(0, 5, 1));
}

}  // namespace
}  // namespace octavo
