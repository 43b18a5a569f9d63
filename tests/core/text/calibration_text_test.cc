#include "core/text/calibration_text.h"

#include <numeric>
#include <set>

#include "core/base/error.h"
#include "gmock/gmock.h"
#include "tests/core/text/golden.h"

namespace octavo {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::Ge;
using ::testing::HasSubstr;
using ::testing::Lt;
using Ids = std::vector<int32_t>;
using Samples = absl::StatusOr<CalibrationSamples>;

constexpr std::string_view kTemplate =
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if tools %}{{ tools | length }}{% endif %}{{ strftime_now('%Y-%m-%d') }}";

// "Word 1 and word 2 and ..." of at least `size` bytes.
std::string Prose(size_t size) {
  std::string text;
  for (int i = 1; text.size() < size; ++i) {
    text += "Word " + std::to_string(i) + (i % 9 == 0 ? ".\n" : " and ");
  }
  return text;
}

class CalibrationTextTest : public ::testing::Test {
 protected:
  CalibrationTextTest() {
    const std::string tokenizer = ReadGolden("llama3.tokenizer.json");
    const std::string config =
        nlohmann::json{{"bos_token", "<|begin_of_text|>"}, {"chat_template", kTemplate}}.dump();
    auto bundle = LoadTextBundle({.tokenizer_json = tokenizer, .tokenizer_config_json = config});
    EXPECT_TRUE(bundle.ok()) << bundle.status();
    text_ = *std::move(bundle);
    vocabulary_ = text_.tokenizer->vocab_size();
    options_ = {.samples = 4, .sample_length = 8, .threads = 2};
  }

  Samples Make(std::string_view bytes, std::string_view name) const {
    auto file = OpenCalibrationFile(bytes, name);
    if (!file.ok()) return file.status();
    return CalibrationFromFile(*file, &text_, vocabulary_, options_);
  }
  Ids Encoded(std::string_view text, EncodeOptions options = {}) const {
    return *text_.tokenizer->Encode(text, options);
  }
  // The message of the error that `bytes` give.
  std::string Refusal(std::string_view bytes, std::string_view name,
                      Reason reason = Reason::kBadData) const {
    const Samples samples = Make(bytes, name);
    EXPECT_FALSE(samples.ok()) << name;
    if (samples.ok()) return "";
    EXPECT_EQ(ReasonOf(samples.status()), reason) << samples.status();
    return std::string(samples.status().message());
  }

  TextBundle text_;
  int64_t vocabulary_ = 0;
  CalibrationOptions options_;
};

Ids SampleOf(const CalibrationSamples& samples, size_t index) {
  const auto begin = samples.ids.begin() +
                     std::accumulate(samples.lengths.begin(), samples.lengths.begin() + index, 0);
  return {begin, begin + samples.lengths[index]};
}

TEST_F(CalibrationTextTest, PlainTextIsTokenizedOnceAndCut) {
  const std::string text = Prose(1000);
  const Samples samples = Make(text, "a.txt");
  ASSERT_TRUE(samples.ok()) << samples.status();
  EXPECT_THAT(samples->lengths, ElementsAre(8, 8, 8, 8));
  Ids expected = Encoded(text);
  EXPECT_EQ(expected[0], *text_.bos_id);
  expected.resize(32);
  EXPECT_EQ(samples->ids, expected);
}

TEST_F(CalibrationTextTest, AFileWithFewerSamplesGivesThoseAndDropsTheTail) {
  options_.samples = 1000;
  const std::string text = Prose(300);
  const Samples samples = Make(text, "a.txt");
  ASSERT_TRUE(samples.ok());
  EXPECT_EQ(samples->lengths.size(), Encoded(text).size() / 8);
  EXPECT_THAT(samples->lengths, Each(8u));
}

TEST_F(CalibrationTextTest, TextsOfJsonLinesAreJoinedByTwoLineFeeds) {
  const std::string lines =
      "{\"text\": \"One text.\", \"meta\": 1}\n\n{\"text\": \"\"}\r\n{\"text\": \"\\u00e9\"}";
  options_ = {.samples = 1, .sample_length = 5};
  const Samples samples = Make(lines, "a.jsonl");
  ASSERT_TRUE(samples.ok()) << samples.status();
  Ids expected = Encoded("One text.\n\n\n\n\u00e9");
  expected.resize(5);
  EXPECT_EQ(samples->ids, expected);
}

TEST_F(CalibrationTextTest, EachLineIsASampleAndShortOnesStayShort) {
  options_.packing = CalibrationPacking::kEach;
  const std::string longer = Prose(200);
  const std::string line = longer.substr(0, longer.find('\n'));
  const std::string text = "Hi\n \t\n" + line + "\r\n\nHi";
  const Samples samples = Make(text, "a.txt");
  ASSERT_TRUE(samples.ok()) << samples.status();
  ASSERT_EQ(samples->lengths.size(), 3u);
  EXPECT_EQ(SampleOf(*samples, 0), Encoded("Hi"));
  Ids expected = Encoded(line);
  ASSERT_GT(expected.size(), 8u);
  expected.resize(8);
  EXPECT_EQ(SampleOf(*samples, 1), expected);
  EXPECT_EQ(SampleOf(*samples, 2), Encoded("Hi"));
}

TEST_F(CalibrationTextTest, ConversationsGoThroughTheTemplateAndHaveOneBos) {
  options_ = {.samples = 9, .sample_length = 1000};
  const std::string lines =
      R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]})"
      "\n"
      R"({"prompt": "x", "messages": [{"role": "user", "content": "?"}], "tools": [{}, {}]})";
  const Samples samples = Make(lines, "chats");
  ASSERT_TRUE(samples.ok()) << samples.status();
  ASSERT_EQ(samples->lengths.size(), 2u);
  const EncodeOptions bare{.add_special_tokens = false};
  EXPECT_EQ(SampleOf(*samples, 0),
            Encoded("<|begin_of_text|>[user]Hi[assistant]Yo2025-01-01", bare));
  EXPECT_EQ(SampleOf(*samples, 1), Encoded("<|begin_of_text|>[user]?22025-01-01", bare));

  options_ = {.samples = 1, .sample_length = 20, .packing = CalibrationPacking::kPack};
  const Samples packed = Make(lines, "chats");
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_EQ(packed->ids, Ids(samples->ids.begin(), samples->ids.begin() + 20));
}

TEST_F(CalibrationTextTest, AsTextPaddedHasBosTwiceAndEosUpToTheLongest) {
  options_ = {.samples = 9, .sample_length = 1000, .as_text_padded = true};
  const std::string_view lines = R"({"messages": [{"role": "user", "content": "Hi there, you"}]}
      {"messages": [{"role": "user", "content": "?"}]})";
  EXPECT_THAT(Refusal(lines, "chats", Reason::kUnsupported), HasSubstr("names no EOS"));
  text_.eos_text = "<|end_of_text|>";
  const Ids longer = Encoded("<|begin_of_text|>[user]Hi there, you2025-01-01");
  EXPECT_THAT(std::vector(longer.begin(), longer.begin() + 2), Each(*text_.bos_id));
  Ids expected = Encoded("<|begin_of_text|>[user]?2025-01-01");
  expected.resize(longer.size(), *text_.tokenizer->TokenId(text_.eos_text));
  expected.insert(expected.begin(), longer.begin(), longer.end());
  EXPECT_EQ(Make(lines, "chats")->ids, expected);
  EXPECT_THAT(Make("{\"ids\": [1, 2]}\n{\"ids\": [3]}", "a.jsonl")->lengths, ElementsAre(2, 1));
}

TEST_F(CalibrationTextTest, IdsNeedNoTokenizer) {
  const std::string lines = "{\"ids\": [5, 0, 6, 7]}\n{\"ids\": [1]}\n";
  options_ = {.samples = 2, .sample_length = 3};
  const auto file = OpenCalibrationFile(lines, "ids.jsonl");
  ASSERT_TRUE(file.ok());
  const Samples each = CalibrationFromFile(*file, nullptr, 8, options_);
  ASSERT_TRUE(each.ok()) << each.status();
  EXPECT_THAT(each->lengths, ElementsAre(3, 1));
  EXPECT_THAT(each->ids, ElementsAre(5, 0, 6, 1));
  options_.packing = CalibrationPacking::kPack;
  const Samples packed = CalibrationFromFile(*file, nullptr, 8, options_);
  ASSERT_TRUE(packed.ok()) << packed.status();
  EXPECT_THAT(packed->lengths, ElementsAre(3));
  EXPECT_THAT(packed->ids, ElementsAre(5, 0, 6));
}

TEST_F(CalibrationTextTest, TheKindComesFromNameAndContent) {
  const auto kind = [](std::string_view bytes, std::string_view name) {
    const auto file = OpenCalibrationFile(bytes, name);
    EXPECT_TRUE(file.ok()) << file.status();
    return file->kind;
  };
  const std::string_view json = "\n {\"text\": \"a\"}";
  EXPECT_EQ(kind("{\"ids\": []}", "a"), CalibrationKind::kJsonIds);
  EXPECT_EQ(kind("{\"messages\": []}", "a.data"), CalibrationKind::kJsonMessages);
  EXPECT_EQ(kind("{\"text\": \"a\"}", "a.txt"), CalibrationKind::kText);
  EXPECT_EQ(kind(json, "a.json"), CalibrationKind::kJsonText);
  EXPECT_EQ(kind("{\"title\": 1}", "a"), CalibrationKind::kText);
  EXPECT_EQ(kind("{brace} and text", "a"), CalibrationKind::kText);
  EXPECT_EQ(kind("[1, 2]", "a"), CalibrationKind::kText);
}

TEST_F(CalibrationTextTest, ErrorsNameFileAndLine) {
  const auto line = [](std::string_view what) {
    return AllOf(HasSubstr("file f.jsonl"), HasSubstr(what));
  };
  EXPECT_THAT(Refusal("", "f.txt"), HasSubstr("no text: file f.txt"));
  EXPECT_THAT(Refusal(" \n\t\r\n", "f.txt"), HasSubstr("no text: file f.txt"));
  EXPECT_THAT(Refusal("a b", "f.txt"), HasSubstr("tokens, less than one calibration sample of 8"));
  EXPECT_THAT(Refusal("a\nb\xff", "f.txt"),
              HasSubstr("line 2: not UTF-8: file f.txt, byte offset 3"));
  EXPECT_THAT(Refusal("{\"text\": \"a\"}\n{\"text\": \"\xc3\"}", "f.jsonl"),
              line("line 2: not UTF-8"));
  EXPECT_THAT(Refusal("[1]", "f.jsonl"), line("line 1: not a JSON object"));
  EXPECT_THAT(Refusal("{\"title\": 1}", "f.jsonl"), line("line 1: none of"));
  EXPECT_THAT(Refusal("{\"text\": \"a\", \"ids\": [1]}", "f"),
              HasSubstr("line 1: both \"text\" and \"ids\""));
  EXPECT_THAT(Refusal("{\"text\": 5}", "f.jsonl"), line("line 1: \"text\" is not a string"));
  EXPECT_THAT(Refusal("{\"text\": \"a\"}\n\n{\"text\": \"b\"", "f.jsonl"),
              line("line 3: not valid JSON at its byte 13"));
  EXPECT_THAT(Refusal("{\"text\": \"a\", \"text\": \"b\"}", "f.jsonl"),
              line("line 1: the key \"text\" is there twice"));
  EXPECT_THAT(Refusal("{\"text\": \"a\"}\n{\"ids\": [1]}", "f.jsonl"),
              line("line 2: JSON lines with \"ids\" in a file of JSON lines with \"text\""));
  EXPECT_THAT(Refusal("{\"x\": " + std::string(100, '[') + std::string(100, ']') + "}", "f.jsonl"),
              line("line 1: nested deeper than 64"));
  EXPECT_THAT(Refusal("{\"messages\": []}", "f.jsonl"),
              line("line 1: \"messages\" is not a list of messages"));
  EXPECT_THAT(Refusal("{\"messages\": [{\"role\": \"user\"}, {\"role\": 1}]}", "f.jsonl"),
              line("line 1: message 2 is no object with a \"role\""));
  EXPECT_THAT(Refusal("{\"messages\": [{\"role\": \"user\"}], \"tools\": 1}", "f.jsonl"),
              line("line 1: \"tools\" is not a list"));
  EXPECT_THAT(Refusal("{\"ids\": []}", "f.jsonl"), line("line 1: \"ids\" is not a list of ids"));
  EXPECT_THAT(Refusal("{\"ids\": [1.5]}", "f.jsonl"), line("line 1: id 1 is not an integer"));
  EXPECT_THAT(Refusal("{\"ids\": [1]}\n{\"ids\": [2, -1]}", "f.jsonl"),
              line("line 2: id 2 is -1, outside the vocabulary"));
  EXPECT_THAT(Refusal("{\"ids\": [4294967296]}", "f.jsonl"),
              line("line 1: id 1 is 4294967296, outside"));
  options_.packing = CalibrationPacking::kEach;
  EXPECT_THAT(Refusal("{\"text\": \"a\"}\n{\"text\": \"\"}", "f.jsonl"),
              line("line 2: no token is in it"));
}

TEST_F(CalibrationTextTest, OfSeveralBadLinesTheFirstIsNamed) {
  std::string lines;
  for (int i = 1; i <= 500; ++i) lines += i % 100 == 77 ? "{\"ids\": 0}\n" : "{\"ids\": [1]}\n";
  options_ = {.samples = 500, .sample_length = 1, .threads = 8};
  for (int round = 0; round < 20; ++round) {
    EXPECT_THAT(Refusal(lines, "f.jsonl"), HasSubstr("line 77:"));
  }
  // No more is looked at than the samples need.
  options_.samples = 76;
  EXPECT_TRUE(Make(lines, "f.jsonl").ok());
}

TEST_F(CalibrationTextTest, ATemplateThatFailsIsNamedWithItsLine) {
  text_.chat_template = *ChatTemplate::FromText(
      "{% if messages | length > 1 %}{{ raise_exception('one at most') }}{% endif %}a", {});
  EXPECT_THAT(Refusal("{\"messages\": [{\"role\": \"u\"}]}\n"
                      "{\"messages\": [{\"role\": \"u\"}, {\"role\": \"u\"}]}",
                      "f.jsonl"),
              AllOf(HasSubstr("line 2: "), HasSubstr("one at most"), HasSubstr("f.jsonl")));
  text_.chat_template.reset();
  text_.chat_template_error = MakeError(Reason::kUnsupported, "this model has no chat template");
  EXPECT_THAT(
      Refusal("{\"messages\": [{\"role\": \"u\"}]}", "f.jsonl", Reason::kUnsupported),
      AllOf(HasSubstr("f.jsonl has JSON lines with \"messages\""), HasSubstr("no chat template")));
}

TEST_F(CalibrationTextTest, ATokenizerThatDoesNotFitTheModelIsRefused) {
  vocabulary_ = *text_.bos_id;
  EXPECT_THAT(Refusal(Prose(300), "f.txt", Reason::kBadCheckpoint),
              AllOf(HasSubstr("does not fit the model"), HasSubstr("<|begin_of_text|>")));
  options_.packing = CalibrationPacking::kEach;
  EXPECT_THAT(Refusal("{\"text\": \"a\"}", "f.jsonl", Reason::kBadCheckpoint),
              HasSubstr("line 1: the tokenizer does not fit the model"));
}

TEST_F(CalibrationTextTest, SettingsBeyondTheBoundsAreRefused) {
  for (const auto& [samples, length] :
       std::vector<std::pair<size_t, size_t>>{{0, 1},
                                              {1, 0},
                                              {kCalibrationSamplesMax + 1, 1},
                                              {2, SIZE_MAX / 2 + 1},
                                              {1 << 15, 513}}) {
    options_ = {.samples = samples, .sample_length = length};
    EXPECT_THAT(Refusal("some text", "f.txt", Reason::kBadRequest),
                HasSubstr("calibration samples"));
    EXPECT_FALSE(RandomCalibration(10, options_).ok());
  }
}

TEST_F(CalibrationTextTest, TheAnswerDoesNotDependOnThreads) {
  std::string lines;
  for (int i = 0; i < 200; ++i) {
    lines += nlohmann::json{{"messages", {{{"role", "user"}, {"content", Prose(i * 7)}}}}}.dump();
    lines += "\n";
  }
  for (const auto packing : {CalibrationPacking::kPack, CalibrationPacking::kEach}) {
    for (const std::optional<uint64_t> seed : {std::optional<uint64_t>(), {7}}) {
      options_ = {.samples = 50, .sample_length = 32, .seed = seed, .packing = packing};
      const Samples one = Make(lines, "f.jsonl");
      ASSERT_TRUE(one.ok()) << one.status();
      options_.threads = 5;
      const Samples five = Make(lines, "f.jsonl");
      ASSERT_TRUE(five.ok());
      EXPECT_EQ(one->ids, five->ids);
      EXPECT_EQ(one->lengths, five->lengths);
      EXPECT_EQ(one->lengths.size(), 50u);
    }
  }
}

TEST_F(CalibrationTextTest, ASeedChoosesAmongAllSamplesInTheirOrder) {
  std::string lines;
  for (int i = 0; i < 100; ++i) lines += "{\"ids\": [" + std::to_string(i) + "]}\n";
  options_ = {.samples = 10, .sample_length = 1, .seed = 5};
  const Samples ten = Make(lines, "f.jsonl");
  ASSERT_TRUE(ten.ok());
  EXPECT_TRUE(std::ranges::is_sorted(ten->ids));
  const std::set<int32_t> distinct(ten->ids.begin(), ten->ids.end());
  EXPECT_EQ(distinct.size(), 10u);
  EXPECT_GT(*distinct.rbegin(), 10);
  options_.packing = CalibrationPacking::kPack;
  EXPECT_EQ(Make(lines, "f.jsonl")->ids, ten->ids);
  options_.seed = 6;
  EXPECT_NE(Make(lines, "f.jsonl")->ids, ten->ids);
}

TEST(ChooseSamplesTest, EveryPlaceIsAsLikelyAndMoreSamplesHoldFewer) {
  constexpr int kSeeds = 20'000;
  std::array<int, 7> hits{};
  for (int seed = 0; seed < kSeeds; ++seed) {
    const auto three = ChooseSamples(7, 3, seed);
    const auto five = ChooseSamples(7, 5, seed);
    ASSERT_EQ(three.size(), 3u);
    EXPECT_TRUE(std::ranges::includes(five, three));
    EXPECT_EQ(std::set<size_t>(five.begin(), five.end()).size(), 5u);
    for (const size_t i : three) ++hits.at(i);
  }
  // 3 of 7 each, give or take 5 standard deviations of about 70.
  for (const int count : hits) EXPECT_NEAR(count, kSeeds * 3 / 7.0, 350);
  EXPECT_THAT(ChooseSamples(4, 9, 1), ElementsAre(0, 1, 2, 3));
  EXPECT_TRUE(ChooseSamples(0, 9, 1).empty());
}

TEST(RandomCalibrationTest, IdsAreUniformAndAFunctionOfSeedSampleAndPosition) {
  const auto many = RandomCalibration(100, {.samples = 200, .sample_length = 500, .seed = 3});
  ASSERT_TRUE(many.ok());
  EXPECT_THAT(many->lengths, AllOf(::testing::SizeIs(200), Each(500u)));
  EXPECT_THAT(many->ids, Each(AllOf(Ge(0), Lt(100))));
  std::array<int, 100> hits{};
  for (const int32_t id : many->ids) ++hits.at(id);
  // 1,000 each, give or take 5 standard deviations of about 31.5.
  for (const int count : hits) EXPECT_NEAR(count, 1000, 158);
  const auto few = RandomCalibration(100, {.samples = 2, .sample_length = 4, .seed = 3});
  ASSERT_TRUE(few.ok());
  EXPECT_EQ(SampleOf(*few, 1), Ids(many->ids.begin() + 500, many->ids.begin() + 504));
  EXPECT_NE(few->ids, RandomCalibration(100, {.samples = 2, .sample_length = 4, .seed = 4})->ids);
  EXPECT_EQ(RandomCalibration(100, {.samples = 2, .sample_length = 4})->ids,
            RandomCalibration(100, {.samples = 2, .sample_length = 4, .seed = 0})->ids);
}

TEST_F(CalibrationTextTest, TextBeyondOneStretchIsCutAfterALineFeed) {
  // The same text as a whole and as JSON lines of its paragraphs.
  std::string text, lines;
  for (int paragraph = 0; text.size() <= kCalibrationStretchBytes; ++paragraph) {
    const std::string prose = Prose(200'000 + paragraph);
    text += (paragraph == 0 ? "" : "\n\n") + prose;
    lines += nlohmann::json{{"text", prose}}.dump() + "\n";
  }
  const size_t cut = text.rfind('\n', kCalibrationStretchBytes - 1) + 1;
  // All of it is tokenized.
  options_ = {.samples = 1000, .sample_length = 4, .seed = 0, .threads = 1};
  int calls = 0;
  options_.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_EQ(total, text.size());
    EXPECT_EQ(done, ++calls == 1 ? cut : text.size());
    return true;
  };
  const Samples whole = Make(text, "f.txt");
  ASSERT_TRUE(whole.ok()) << whole.status();
  EXPECT_EQ(calls, 2);
  Ids stream = Encoded(text.substr(0, cut));
  const Ids rest = Encoded(text.substr(cut));
  stream.insert(stream.end(), rest.begin(), rest.end());
  Ids expected;
  for (const size_t i : ChooseSamples(stream.size() / 4, 1000, 0)) {
    expected.insert(expected.end(), stream.begin() + 4 * i, stream.begin() + 4 * i + 4);
  }
  EXPECT_EQ(whole->ids, expected);

  options_.progress = {};
  options_.threads = 3;
  const Samples joined = Make(lines, "f.jsonl");
  ASSERT_TRUE(joined.ok()) << joined.status();
  EXPECT_EQ(joined->ids, expected);
}

TEST_F(CalibrationTextTest, ProgressMayStop) {
  options_.progress = [](uint64_t, uint64_t) { return false; };
  Refusal(Prose(300), "f.txt", Reason::kCancelled);
}

}  // namespace
}  // namespace octavo
