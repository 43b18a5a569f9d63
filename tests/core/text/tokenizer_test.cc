#include "core/text/tokenizer.h"

#include <ctime>
#include <limits>

#include "core/base/error.h"
#include "core/text/detokenizer.h"
#include "core/text/utf8.h"
#include "gmock/gmock.h"
#include "tests/core/text/golden.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Ids = std::vector<int32_t>;

std::unique_ptr<Tokenizer> LoadGolden(const std::string& style) {
  auto tokenizer = LoadTokenizer(ReadGolden(style + ".tokenizer.json"));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

Ids EncodeOrDie(const Tokenizer& tokenizer, std::string_view text, EncodeOptions options) {
  const auto ids = tokenizer.Encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return *ids;
}

constexpr EncodeOptions kPlain{.add_special_tokens = false, .parse_special = true};

class StyleTest : public ::testing::TestWithParam<const char*> {};

TEST_P(StyleTest, IdsAndTextsAreThoseOfHuggingFace) {
  const auto tokenizer = LoadGolden(GetParam());
  for (const auto& c : ReadGoldenLines(std::string(GetParam()) + ".cases.jsonl")) {
    const auto text = c["text"].get<std::string>();
    SCOPED_TRACE(c["text"].dump());
    const Ids ids = c["ids"].get<Ids>();
    EXPECT_EQ(EncodeOrDie(*tokenizer, text, {}), c["with_added"].get<Ids>());
    EXPECT_EQ(EncodeOrDie(*tokenizer, text, kPlain), ids);
    EXPECT_EQ(EncodeOrDie(*tokenizer, text, {.add_special_tokens = false, .parse_special = false}),
              c["special_as_text"].get<Ids>());
    EXPECT_EQ(tokenizer->Decode(ids, false), c["decoded"].get<std::string>());
    EXPECT_EQ(tokenizer->Decode(ids, true), c["without_special"].get<std::string>());
  }
}

TEST_P(StyleTest, PiecesOfTheDetokenizerAreWholeCharactersAndJoinToTheText) {
  const auto tokenizer = LoadGolden(GetParam());
  for (const auto& c : ReadGoldenLines(std::string(GetParam()) + ".cases.jsonl")) {
    const Ids all = c["ids"].get<Ids>();
    for (const bool skip : {false, true}) {
      // Also from the middle of a character on.
      for (size_t from = 0; from < all.size(); from += 7) {
        const std::span<const int32_t> ids = std::span(all).subspan(from);
        Detokenizer detokenizer(tokenizer.get(), skip);
        std::string joined;
        for (const int32_t id : ids) {
          const std::string piece = detokenizer.Push(id);
          ASSERT_TRUE(IsUtf8(piece));
          joined += piece;
        }
        joined += detokenizer.Finish();
        EXPECT_EQ(joined, tokenizer->Decode(ids, skip));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Styles, StyleTest,
                         ::testing::Values("smollm2", "llama3", "qwen2", "dbrx", "gpt2",
                                           "no_unknown", "llama2", "mixtral", "first_llama",
                                           "always", "never"));

// Bytes as tokens: any byte sequence can be spelled, so characters can be cut anywhere.
class DetokenizerTest : public ::testing::Test {
 protected:
  int32_t Byte(unsigned char byte) const {
    for (int32_t id = 0; id < tokenizer_->vocab_size(); ++id) {
      if (tokenizer_->TokenBytes(id) == std::string_view(reinterpret_cast<char*>(&byte), 1)) {
        return id;
      }
    }
    ADD_FAILURE() << "no token for byte " << int{byte};
    return -1;
  }
  std::unique_ptr<Tokenizer> tokenizer_ = LoadGolden("smollm2");
};

TEST_F(DetokenizerTest, HoldsBytesBackUntilTheCharacterIsWhole) {
  Detokenizer detokenizer(tokenizer_.get(), true);
  std::vector<std::string> pieces;
  for (const unsigned char byte : std::string("a\xf0\x9f\x91\x8d!")) {
    pieces.push_back(detokenizer.Push(Byte(byte)));
  }
  EXPECT_THAT(pieces, ElementsAre("a", "", "", "", "\xf0\x9f\x91\x8d", "!"));
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST_F(DetokenizerTest, BrokenCharactersBecomeReplacementCharacters) {
  Detokenizer detokenizer(tokenizer_.get(), true);
  EXPECT_EQ(detokenizer.Push(Byte(0xe6)), "");
  EXPECT_EQ(detokenizer.Push(Byte(0x97)), "");
  EXPECT_EQ(detokenizer.Push(Byte('x')), "\xef\xbf\xbdx");
  EXPECT_EQ(detokenizer.Push(Byte(0x80)), "\xef\xbf\xbd");
  EXPECT_EQ(detokenizer.Push(Byte(0xe6)), "");
  EXPECT_EQ(detokenizer.Finish(), "\xef\xbf\xbd");
  EXPECT_EQ(detokenizer.Finish(), "");
}

TEST_F(DetokenizerTest, SpecialTokensAreSkippedOrShown) {
  const int32_t end = *tokenizer_->TokenId("<|im_end|>");
  EXPECT_TRUE(tokenizer_->IsSpecial(end));
  EXPECT_FALSE(tokenizer_->IsSpecial(Byte('a')));
  EXPECT_EQ(Detokenizer(tokenizer_.get(), true).Push(end), "");
  EXPECT_EQ(Detokenizer(tokenizer_.get(), false).Push(end), "<|im_end|>");
}

TEST(TokenizerTest, IdsThatNameNoTokenGiveNothing) {
  const auto tokenizer = LoadGolden("llama3");
  const Ids ids = {-1, INT32_MAX, INT32_MIN, tokenizer->vocab_size()};
  EXPECT_EQ(tokenizer->Decode(ids, false), "");
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
  EXPECT_FALSE(tokenizer->IsSpecial(tokenizer->vocab_size()));
  EXPECT_EQ(tokenizer->TokenId("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer->TokenBytes(*tokenizer->TokenId("\xc4\xa0the")), " the");
}

TEST(TokenizerTest, BytesThatAreNotUtf8AreReadAsReplacementCharacters) {
  const auto tokenizer = LoadGolden("qwen2");
  EXPECT_EQ(EncodeOrDie(*tokenizer, "a\xff\xe6\x97z\xc3", kPlain),
            EncodeOrDie(*tokenizer, "a\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd", kPlain));
}

TEST(TokenizerTest, EmptyTextHasOnlyTheAddedIds) {
  const auto tokenizer = LoadGolden("llama3");
  EXPECT_THAT(EncodeOrDie(*tokenizer, "", {}),
              ElementsAre(*tokenizer->TokenId("<|begin_of_text|>")));
  EXPECT_TRUE(EncodeOrDie(*tokenizer, "", kPlain).empty());
}

TEST(TokenizerTest, TextBeyondTheBoundIsRefused) {
  const auto tokenizer = LoadGolden("llama3");
  const auto ids = tokenizer->Encode(std::string(kEncodeBytesMax + 1, 'a'), {});
  ASSERT_FALSE(ids.ok());
  EXPECT_EQ(ReasonOf(ids.status()), Reason::kBadRequest);
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("16777217 bytes"));
}

TEST(TokenizerTest, MegabyteLinesAreEncodedAndComeBack) {
  const auto tokenizer = LoadGolden("llama3");
  for (const std::string unit :
       {"a", " ", "the ", "\n", "1", "\xe6\x97\xa5", "<|eot_id|>", "!? "}) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    EXPECT_EQ(tokenizer->Decode(EncodeOrDie(*tokenizer, text, kPlain), false), text) << unit;
  }
}

// CPU time of the fastest of three, in clock ticks: other tests run beside this one.
double TicksToEncode(const Tokenizer& tokenizer, const std::string& text) {
  double best = std::numeric_limits<double>::infinity();
  for (int round = 0; round < 3; ++round) {
    const std::clock_t begin = std::clock();
    EXPECT_TRUE(tokenizer.Encode(text, kPlain).ok());
    best = std::min(best, static_cast<double>(std::clock() - begin));
  }
  return best;
}

TEST_P(StyleTest, SixteenTimesTheLineTakesNoQuadraticTime) {
  const auto tokenizer = LoadGolden(GetParam());
  for (const std::string unit : {"This License's 12 terms, ", "a", "\u0301\u0323", " "}) {
    std::string text;
    while (text.size() < (1 << 14)) text += unit;
    const double once = TicksToEncode(*tokenizer, text);
    for (int doubling = 0; doubling < 4; ++doubling) text += text;
    // Quadratic time would be 256 times as much. A tick is a microsecond.
    EXPECT_LT(TicksToEncode(*tokenizer, text), 32 * (once + 1000)) << unit;
  }
}

}  // namespace
}  // namespace octavo
