// Tokenizers over characters, in the style of SentencePiece, from tokenizer.json. (Ids and texts of
// whole tokenizers are compared with Hugging Face's in tokenizer_test.)

#include "core/base/error.h"
#include "core/text/detokenizer.h"
#include "core/text/tokenizer.h"
#include "gmock/gmock.h"
#include "tests/core/text/golden.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

constexpr int32_t kUnknown = 0, kByteC3 = 1, kByteA9 = 2, kMark = 3, kA = 4, kB = 5, kMarkA = 6;

// "é" is C3 A9, of which there are tokens; "ß" is C3 9F, of which there are not.
Json SmallFile() {
  return Json::parse(R"({
    "version": "1.0", "added_tokens": [], "post_processor": null, "normalizer": null,
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first",
                      "split": false},
    "decoder": {"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
              "vocab": {"<unk>": 0, "<0xC3>": 1, "<0xA9>": 2, "▁": 3, "a": 4, "b": 5, "▁a": 6},
              "merges": [["▁", "a"]]}})");
}

std::unique_ptr<Tokenizer> Load(const Json& file) {
  auto tokenizer = LoadTokenizer(file.dump());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

Ids Encoded(const Json& file, std::string_view text) { return *Load(file)->Encode(text, {}); }

void ExpectRefused(const Json& file, Reason reason, const std::string& what) {
  const absl::Status status = LoadTokenizer(file.dump()).status();
  ASSERT_FALSE(status.ok()) << what;
  EXPECT_EQ(ReasonOf(status), reason) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokenizer.json"));
}

TEST(SentencePieceJsonTest, SchemesSayWhichTextGetsAMark) {
  Json file = SmallFile();
  file["added_tokens"] = {{{"id", 9}, {"content", "<x>"}, {"normalized", false}}};
  Json& step = file["pre_tokenizer"];
  EXPECT_THAT(Encoded(file, "a<x>a"), ElementsAre(kMarkA, 9, kA));
  EXPECT_THAT(Encoded(file, "<x>a"), ElementsAre(9, kA));
  EXPECT_THAT(Encoded(file, " a"), ElementsAre(kMarkA));  // it has one already
  step["prepend_scheme"] = "always";
  EXPECT_THAT(Encoded(file, "a<x>a"), ElementsAre(kMarkA, 9, kMarkA));
  step["prepend_scheme"] = "never";
  step["add_prefix_space"] = false;
  EXPECT_THAT(Encoded(file, "a a<x>a"), ElementsAre(kA, kMarkA, 9, kA));
  // By normalizers the mark comes even before a space.
  file["pre_tokenizer"] = nullptr;
  file["normalizer"] = Json::parse(R"({"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})");
  EXPECT_THAT(Encoded(file, " a<x>a"), ElementsAre(kMark, kMarkA, 9, kMarkA));
}

TEST(SentencePieceJsonTest, CharactersWithoutATokenBecomeBytesOrUnknown) {
  Json file = SmallFile();
  EXPECT_THAT(Encoded(file, "aéb"), ElementsAre(kMarkA, kByteC3, kByteA9, kB));
  EXPECT_THAT(Encoded(file, "aßßb"), ElementsAre(kMarkA, kUnknown, kB));
  // What waits to be joined comes after the bytes: Hugging Face's order.
  EXPECT_THAT(Encoded(file, "aßéßb"), ElementsAre(kMarkA, kByteC3, kByteA9, kUnknown, kB));
  file["model"]["fuse_unk"] = false;
  EXPECT_THAT(Encoded(file, "aßßb"), ElementsAre(kMarkA, kUnknown, kUnknown, kB));
  file["model"]["byte_fallback"] = false;
  EXPECT_THAT(Encoded(file, "aéb"), ElementsAre(kMarkA, kUnknown, kB));
  file["model"]["unk_token"] = nullptr;
  EXPECT_THAT(Encoded(file, "aéb"), ElementsAre(kMarkA, kB));
}

TEST(SentencePieceJsonTest, ASpaceGoesFromTheStartOfATextButNotFromItsContinuation) {
  const auto tokenizer = Load(SmallFile());
  EXPECT_EQ(tokenizer->TokenBytes(kMarkA), " a");
  EXPECT_EQ(tokenizer->Decode(Ids{kMarkA, kMarkA}, true), "a a");
  EXPECT_EQ(tokenizer->Decode(Ids{kMark, kMarkA}, true), " a");
  EXPECT_EQ(tokenizer->Decode(Ids{kB, kMarkA}, true), "b a");
  Detokenizer start(tokenizer.get(), true);
  EXPECT_EQ(start.Push(kMarkA), "a");
  EXPECT_EQ(start.Push(kMarkA), " a");
  Detokenizer continuation(tokenizer.get(), true, TextPosition::kContinuation);
  EXPECT_EQ(continuation.Push(kMarkA), " a");
}

TEST(SentencePieceJsonTest, BytesAreHeldBackUntilTheCharacterIsWhole) {
  const auto tokenizer = Load(SmallFile());
  Detokenizer detokenizer(tokenizer.get(), true);
  EXPECT_EQ(detokenizer.Push(kByteC3), "");
  EXPECT_EQ(detokenizer.Push(kByteA9), "é");
  EXPECT_EQ(detokenizer.Push(kByteA9), "\ufffd");
  EXPECT_EQ(detokenizer.Push(kByteC3), "");
  EXPECT_EQ(detokenizer.Push(kB), "\ufffdb");
  EXPECT_EQ(detokenizer.Push(kByteC3), "");
  EXPECT_EQ(detokenizer.Finish(), "\ufffd");
  EXPECT_EQ(tokenizer->Decode(Ids{kByteC3, kByteA9, kByteA9, kByteC3}, true), "é\ufffd\ufffd");
}

void ExpectChangeRefused(const char* pointer, const char* value, const char* what, Reason reason) {
  Json file = SmallFile();
  file[Json::json_pointer(pointer)] = Json::parse(value);
  ExpectRefused(file, reason, what);
}

TEST(SentencePieceJsonTest, OtherSettingsAreRefusedByName) {
  const Reason unsupported = Reason::kUnsupported;
  const Reason bad = Reason::kBadCheckpoint;
  ExpectChangeRefused("/decoder/decoders/3/stop", "1", "\"stop\" of the decoder Strip",
                      unsupported);
  ExpectChangeRefused("/decoder/decoders/2/type", "\"Strip\"", "the decoder Strip without Fuse",
                      unsupported);
  ExpectChangeRefused("/decoder/decoders/0/content", "\"____\"", "puts in more", unsupported);
  ExpectChangeRefused("/decoder/decoders/1/type", "\"WordPiece\"", "the decoder WordPiece",
                      unsupported);
  ExpectChangeRefused("/decoder/decoders/2/type", "\"ByteFallback\"", "ByteFallback at this place",
                      unsupported);
  ExpectChangeRefused("/decoder/decoders", "[]", "a decoder without steps", unsupported);
  ExpectChangeRefused("/decoder/decoders/3/content", "\"ab\"", "not one character", bad);
  ExpectChangeRefused("/decoder/decoders/0/pattern", R"({"String": ""})", "1 to 256 bytes", bad);
  ExpectChangeRefused("/pre_tokenizer/prepend_scheme", "\"last\"", "prepend_scheme", unsupported);
  ExpectChangeRefused("/pre_tokenizer/add_prefix_space", "false", "contradict", bad);
  ExpectChangeRefused("/pre_tokenizer/replacement", "\"ab\"", "not one character", bad);
  ExpectChangeRefused("/normalizer", R"({"type": "Prepend", "prepend": 5})", "normalizer Prepend",
                      bad);
}

TEST(SentencePieceJsonTest, ANormalizerThatMakesTooMuchIsAnErrorOfTheText) {
  Json file = SmallFile();
  file["normalizer"] = {
      {"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", std::string(256, 'b')}};
  const auto tokenizer = Load(file);
  EXPECT_TRUE(tokenizer->Encode(std::string(1000, 'a'), {}).ok());
  const absl::Status status = tokenizer->Encode(std::string(1 << 20, 'a'), {}).status();
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kBadRequest);
}

}  // namespace
}  // namespace octavo
