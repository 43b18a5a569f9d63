#include "core/text/regex.h"

#include "core/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Matches(const Regex& regex, std::string_view text) {
  RegexScratch scratch(text.size());
  std::vector<RegexMatch> matches;
  const absl::Status status = regex.FindAll(text, &scratch, &matches);
  EXPECT_TRUE(status.ok()) << status;
  std::vector<std::string> out;
  for (const RegexMatch& match : matches) {
    out.emplace_back(text.substr(match.begin, match.end - match.begin));
  }
  return out;
}

Regex CompileOrDie(std::string_view pattern) {
  auto regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  return *std::move(regex);
}

TEST(RegexTest, FindsFromLeftToRightFirstAlternativeFirst) {
  EXPECT_THAT(Matches(CompileOrDie("ab|a|abc"), "abcaab"), ElementsAre("ab", "a", "ab"));
  EXPECT_THAT(Matches(CompileOrDie(R"(\s+(?!\S)|\s+)"), "a   b \n"), ElementsAre("  ", " ", " \n"));
  EXPECT_THAT(Matches(CompileOrDie("x*"), "axxb"), ElementsAre("xx"));
  EXPECT_THAT(Matches(*Regex::CompileLiteral("a.b"), "a.b axb"), ElementsAre("a.b"));
}

TEST(RegexTest, ClassesAreThoseOfTheNewerUnicode) {
  // U+10D4A is a letter since Unicode 16, U+10D40 a digit; U+180E has not been a space since 6.3.
  const std::string letter = "\xf0\x90\xb5\x8a";
  const std::string digit = "\xf0\x90\xb5\x80";
  EXPECT_THAT(Matches(CompileOrDie(R"(\p{L}+)"), "a" + letter + "1"), ElementsAre("a" + letter));
  EXPECT_THAT(Matches(CompileOrDie(R"([^\s\p{L}]+)"), "a" + letter + digit), ElementsAre(digit));
  EXPECT_THAT(Matches(CompileOrDie(R"(\P{N}+)"), "a" + digit + "b"), ElementsAre("a", "b"));
  EXPECT_THAT(Matches(CompileOrDie(R"(\d)"), digit), ElementsAre(digit));
  EXPECT_THAT(Matches(CompileOrDie(R"(\s)"), "\xe1\xa0\x8e"), ElementsAre());
  EXPECT_THAT(Matches(CompileOrDie(R"([\S])"), "\xe1\xa0\x8e"), ElementsAre("\xe1\xa0\x8e"));
  EXPECT_THAT(Matches(CompileOrDie(R"(\s)"), "\xc2\x85"), ElementsAre("\xc2\x85"));
  EXPECT_THAT(Matches(CompileOrDie(R"((?i:'s))"), "'\xc5\xbf"), ElementsAre("'\xc5\xbf"));
  EXPECT_THAT(Matches(Regex::Digits(true), "1a23"), ElementsAre("1", "2", "3"));
  EXPECT_THAT(Matches(Regex::Digits(false), "1a23"), ElementsAre("1", "23"));
  EXPECT_THAT(Matches(Regex::WordCharacter(), "a_-1"), ElementsAre("a", "_", "1"));
}

TEST(RegexTest, WhatPcre2ReadsDifferentlyIsRefusedByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(\w+)", "the escape \\w"},
      {R"(\bx)", "the escape \\b"},
      {R"(\h)", "the escape \\h"},
      {R"(\x41)", "the escape \\x"},
      {R"(\p{Lu})", "\\p{Lu}"},
      {R"([\P{L}])", "\\P{L} inside"},
      {R"([a&&b])", "class operation"},
      {R"([[:alpha:]])", "class operation"},
      {"^a", "^ in"},
      {"a$", "$ in"},
      {R"(\p{N}{1,3}+)", "}+"},
      {"a{2}?", "}?"},
      {"a{,3}", "{,"},
      {"(*UTF)a", "(*"},
      {"(?s:.)", "(?s"},
      {"(?P<n>a)", "(?P"},
      {R"(\1)", "the escape \\1"},
      {"[]a]", "starts with ]"},
  };
  for (const auto& [pattern, what] : cases) {
    const auto regex = Regex::Compile(pattern);
    ASSERT_FALSE(regex.ok()) << pattern;
    EXPECT_EQ(ReasonOf(regex.status()), Reason::kUnsupported) << pattern;
    EXPECT_THAT(std::string(regex.status().message()), HasSubstr(what));
  }
}

TEST(RegexTest, WrongPatternsAreErrorsOfTheFile) {
  for (const std::string& pattern :
       {std::string("(a"), std::string("[a"), std::string("a\\"), std::string("*"),
        std::string("\xff"), std::string(kPatternBytesMax + 1, 'a')}) {
    const auto regex = Regex::Compile(pattern);
    ASSERT_FALSE(regex.ok()) << pattern.substr(0, 10);
    EXPECT_EQ(ReasonOf(regex.status()), Reason::kBadCheckpoint);
    EXPECT_THAT(std::string(regex.status().message()), HasSubstr("tokenizer.json"));
  }
}

absl::Status Find(std::string_view pattern, const std::string& text) {
  RegexScratch scratch(text.size());
  std::vector<RegexMatch> matches;
  return CompileOrDie(pattern).FindAll(text, &scratch, &matches);
}

TEST(RegexTest, EndlessBacktrackingIsAnError) {
  const absl::Status status = Find("(?:a+)+(?:b|c)", std::string(64, 'a'));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kBadRequest);
  EXPECT_THAT(std::string(status.message()), HasSubstr("too much work"));
}

TEST(RegexTest, LookingFarAheadFromEveryPositionIsAnError) {
  const absl::Status status = Find("[^b]*b", std::string(1'000'000, 'a'));
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kBadRequest);
}

TEST(RegexTest, OneLongRunIsNoPathologicalCase) {
  const std::string pattern = R"(\s*[\r\n]+|\s+(?!\S)|\s+|\p{L}+)";
  EXPECT_TRUE(Find(pattern, std::string(8 << 20, ' ')).ok());
  EXPECT_TRUE(Find(pattern, std::string(8 << 20, ' ') + "a").ok());
  EXPECT_TRUE(Find(pattern, std::string(8 << 20, 'a')).ok());
}

}  // namespace
}  // namespace octavo
