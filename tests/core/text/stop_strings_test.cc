#include "core/text/stop_strings.h"

#include <random>

#include "core/base/error.h"
#include "core/base/limits.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

StopMatcher Matcher(const std::vector<std::string>& stops) {
  auto matcher = StopMatcher::Create(stops);
  EXPECT_TRUE(matcher.ok()) << matcher.status();
  return *std::move(matcher);
}

TEST(StopStringsTest, HoldsBackWhatMayBecomeAStop) {
  StopMatcher matcher = Matcher({"STOP"});
  EXPECT_EQ(matcher.Push("abcST").emit, "abc");
  EXPECT_EQ(matcher.Push("AST").emit, "STA");
  const StopMatcher::Result result = matcher.Push("OP and more");
  EXPECT_TRUE(result.matched);
  EXPECT_EQ(result.stop_index, 0);
  EXPECT_EQ(result.emit, "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.Push("after").emit, "");
}

TEST(StopStringsTest, FinishGivesBackWhatWasHeld) {
  StopMatcher matcher = Matcher({"</s>"});
  EXPECT_EQ(matcher.Push("x</").emit, "x");
  EXPECT_EQ(matcher.Finish(), "</");
  EXPECT_EQ(matcher.Push("s>").emit, "s>");  // started over
}

TEST(StopStringsTest, FirstToBeCompleteThenTheLongest) {
  StopMatcher earlier = Matcher({"abcdef", "cd"});
  StopMatcher::Result result = earlier.Push("xabcdef");
  EXPECT_EQ(result.stop_index, 1);
  EXPECT_EQ(result.emit, "xab");
  StopMatcher longer = Matcher({"cd", "abcd"});
  result = longer.Push("xabcd");
  EXPECT_EQ(result.stop_index, 1);
  EXPECT_EQ(result.emit, "x");
}

TEST(StopStringsTest, NeverCutsACharacter) {
  StopMatcher matcher = Matcher({"\xc3\xa9t\xc3\xa9"});
  EXPECT_EQ(matcher.Push("l'\xc3\xa9t\xc3\xa8").emit, "l'\xc3\xa9t\xc3\xa8");
}

TEST(StopStringsTest, WithoutStopsEverythingPasses) {
  StopMatcher matcher;
  EXPECT_EQ(matcher.Push("text").emit, "text");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopStringsTest, BoundsAreChecked) {
  const std::vector<std::string> too_many(kStopStringsMax + 1, "a");
  const std::vector<std::vector<std::string>> bad = {
      too_many, {""}, {std::string(kStopStringBytesMax + 1, 'a')}, {"\xff"}};
  for (const auto& stops : bad) {
    const auto matcher = StopMatcher::Create(stops);
    ASSERT_FALSE(matcher.ok());
    EXPECT_EQ(ReasonOf(matcher.status()), Reason::kBadRequest);
  }
  EXPECT_TRUE(StopMatcher::Create(std::vector<std::string>(kStopStringsMax, "a")).ok());
}

// The definition, without streaming.
struct Expected {
  std::string text;
  int stop = -1;
};
Expected Find(const std::vector<std::string>& stops, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    Expected found;
    size_t longest = 0;
    for (size_t s = 0; s < stops.size(); ++s) {
      if (stops[s].size() > longest && text.substr(0, end).ends_with(stops[s])) {
        longest = stops[s].size();
        found = {text.substr(0, end - longest), static_cast<int>(s)};
      }
    }
    if (longest > 0) return found;
  }
  return {text, -1};
}

TEST(StopStringsTest, CutsOfTheInputNeverChangeTheResult) {
  std::mt19937 random(5);
  auto word = [&](size_t size_max) {
    std::string out(1 + random() % size_max, 'a');
    for (char& c : out) c = static_cast<char>('a' + random() % 2);
    return out;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops) stop = word(6);
    const std::string text = word(30);
    const Expected expected = Find(stops, text);
    StopMatcher matcher = Matcher(stops);
    std::string got;
    int stop = -1;
    for (size_t at = 0; at < text.size();) {
      const size_t size = std::min<size_t>(random() % 5, text.size() - at);
      const StopMatcher::Result result = matcher.Push(std::string_view(text).substr(at, size));
      got += result.emit;
      if (result.matched) stop = result.stop_index;
      // Nothing that belongs to the answer is held back without need, nothing beyond it given.
      EXPECT_TRUE(expected.text.starts_with(got)) << text;
      at += size;
    }
    if (stop < 0) got += matcher.Finish();
    EXPECT_EQ(got, expected.text);
    EXPECT_EQ(stop, expected.stop);
  }
}

}  // namespace
}  // namespace octavo
