// The load generator without a server: what it plans, and what it makes of what it saw.

#include <algorithm>
#include <set>

#include "cli/load_figures.h"
#include "cli/load_http.h"
#include "cli/load_plan.h"
#include "gmock/gmock.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

TEST(LoadPlan, IsTheSameForTheSameSeedAndAnotherForAnother) {
  const LoadShape shape = {.requests = 20, .spread = 0.5, .rate = 4, .seed = 7};
  const auto one = PlanLoad(shape);
  const auto same = PlanLoad(shape);
  LoadShape changed = shape;
  changed.seed = 8;
  const auto other = PlanLoad(changed);
  ASSERT_EQ(one.size(), 20u);
  std::set<std::vector<int32_t>> prompts;
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_EQ(one[i].prompt, same[i].prompt);
    EXPECT_EQ(one[i].at_seconds, same[i].at_seconds);
    EXPECT_NE(one[i].prompt, other[i].prompt);
    prompts.insert(one[i].prompt);
  }
  EXPECT_EQ(prompts.size(), one.size());  // no two alike: a prefix cache gains nothing
}

TEST(LoadPlan, KeepsToItsShape) {
  const LoadShape shape = {.requests = 4000,
                           .input_tokens = 40,
                           .output_tokens = 10,
                           .spread = 0.25,
                           .rate = 50,
                           .first_id = 5,
                           .ids = 11};
  double last = 0, inputs = 0;
  const auto plan = PlanLoad(shape);
  EXPECT_EQ(plan.front().at_seconds, 0);
  for (const PlannedRequest& request : plan) {
    EXPECT_GE(request.at_seconds, last);
    last = request.at_seconds;
    EXPECT_GE(request.prompt.size(), 30u);
    EXPECT_LE(request.prompt.size(), 50u);
    inputs += static_cast<double>(request.prompt.size());
    EXPECT_GE(request.output_tokens, 8u);
    EXPECT_LE(request.output_tokens, 13u);
    EXPECT_GE(*std::ranges::min_element(request.prompt), 5);
    EXPECT_LT(*std::ranges::max_element(request.prompt), 16);
  }
  // Means of 4,000 draws: standard errors 1.6 % and 0.2 %.
  EXPECT_NEAR(last, 80, 8);
  EXPECT_NEAR(inputs / 4000, 40, 0.5);
}

TEST(LoadPlan, AClosedLoopHasNoTimes) {
  for (const PlannedRequest& request : PlanLoad({.requests = 5})) {
    EXPECT_EQ(request.at_seconds, 0);
    EXPECT_EQ(request.prompt.size(), 256u);
    EXPECT_EQ(request.output_tokens, 128u);
  }
}

// Five answers of 11 tokens: the first token after 1 to 5 tenths of a second, then one every 10 to
// 50 milliseconds; and two that failed.
std::vector<RequestRecord> Records() {
  std::vector<RequestRecord> records;
  for (int i = 1; i <= 5; ++i) {
    RequestRecord record;
    record.due = i;
    record.first = i + 0.1 * i;
    record.gaps.assign(10, 0.01 * i);
    record.done = record.first + 0.1 * i;
    record.input_tokens = 100;
    record.output_tokens = 11;
    records.push_back(record);
  }
  RequestRecord failed;
  failed.due = 9;
  failed.done = 10;
  failed.failure = "QUEUE_FULL";
  records.push_back(failed);
  failed.failure = "DEADLINE";
  records.push_back(failed);
  return records;
}

TEST(LoadFigures, AreOfWhatWasAnswered) {
  const LoadFigures figures = FiguresOf(Records(), {});
  EXPECT_EQ(figures.answered, 5u);
  EXPECT_EQ(figures.failed.at("QUEUE_FULL"), 1u);
  EXPECT_EQ(figures.failed.at("DEADLINE"), 1u);
  EXPECT_EQ(figures.seconds, 10);
  EXPECT_EQ(figures.output_tokens, 55u);
  EXPECT_DOUBLE_EQ(figures.requests_per_second(), 0.5);
  EXPECT_DOUBLE_EQ(figures.output_tokens_per_second(), 5.5);
  EXPECT_NEAR(figures.first_token.p50, 0.3, 1e-9);
  EXPECT_NEAR(figures.first_token.max, 0.5, 1e-9);
  EXPECT_NEAR(figures.gap.p50, 0.03, 1e-9);
  EXPECT_NEAR(figures.gap.p99, 0.05, 1e-9);
  EXPECT_NEAR(figures.per_token.mean, 0.03, 1e-9);
  EXPECT_NEAR(figures.whole.p90, 1.0, 1e-9);
  EXPECT_EQ(figures.good, 5u);
}

TEST(LoadFigures, GoodputCountsWhatMetBothGoals) {
  const auto good = [](double first, double gap) {
    return FiguresOf(Records(), {.first_token_seconds = first, .gap_seconds = gap}).good;
  };
  EXPECT_EQ(good(0.35, 0), 3u);
  EXPECT_EQ(good(0, 0.025), 2u);
  EXPECT_EQ(good(0.15, 0.045), 1u);
  EXPECT_EQ(good(0.05, 0), 0u);
}

TEST(LoadFigures, ReadWell) {
  const LoadFigures figures = FiguresOf(Records(), {});
  const std::string text = TextOf(figures);
  EXPECT_THAT(text, HasSubstr("5 answered in 10.00 s: 0.50 requests/s"));
  EXPECT_THAT(text, HasSubstr("1 failed: QUEUE_FULL"));
  const auto json = JsonOf(figures);
  EXPECT_NEAR(json["time_to_first_token_seconds"]["p50"].get<double>(), 0.3, 1e-9);
  EXPECT_EQ(json["failed"]["DEADLINE"], 1);
  const LoadFigures none = FiguresOf({}, {});
  EXPECT_EQ(none.requests_per_second(), 0);
  EXPECT_THAT(TextOf(none), HasSubstr("0 answered"));
}

constexpr std::string_view kAnswer =
    ": a comment\r\n"
    "data: {\"choices\":[{\"text\":\"one\",\"finish_reason\":null}]}\r\n\r\n"
    "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":null}]}\n\n"
    "data: {\"choices\":[{\"text\":\" \\u00e9\",\"finish_reason\":\"length\"}]}\n\n"
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5}}\n\n"
    "data: [DONE]\n\n";

TEST(CompletionEvents, AreTheSameInPiecesOfAnyLength) {
  for (size_t length = 1; length <= kAnswer.size(); ++length) {
    CompletionEvents events;
    int arrivals = 0;
    for (size_t at = 0; at < kAnswer.size(); at += length) {
      const auto tokens = events.Take(kAnswer.substr(at, length));
      ASSERT_TRUE(tokens.ok()) << tokens.status();
      arrivals += *tokens ? 1 : 0;
    }
    EXPECT_TRUE(events.done());
    EXPECT_EQ(events.input_tokens(), 7u);
    EXPECT_EQ(events.output_tokens(), 5u);
    EXPECT_LE(arrivals, 3);
    EXPECT_GE(arrivals, length < 40 ? 3 : 1) << length;
  }
}

TEST(CompletionEvents, CountsEventsWhereNobodySaysUsage) {
  CompletionEvents events;
  ASSERT_TRUE(*events.Take(kAnswer.substr(0, kAnswer.find("data: {\"choices\":[],"))));
  EXPECT_EQ(events.output_tokens(), 3u);
  EXPECT_TRUE(events.done());
}

TEST(CompletionEvents, RefusesWhatIsNotOne) {
  for (const std::string& wrong :
       {std::string("data: nonsense\n"), std::string("data: [1]\n"),
        std::string("data: {\"choices\":[3]}\n"), std::string(2 << 20, 'x')}) {
    CompletionEvents events;
    EXPECT_FALSE(events.Take(wrong).ok()) << wrong.substr(0, 30);
  }
}

}  // namespace
}  // namespace octavo
