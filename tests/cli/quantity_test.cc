#include "cli/quantity.h"

#include "core/base/error.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

TEST(ParseBytes, ReadsBinaryAndDecimalUnits) {
  EXPECT_EQ(*ParseBytes("4GiB", "--memory"), uint64_t{4} << 30);
  EXPECT_EQ(*ParseBytes("512 MiB", "--memory"), uint64_t{512} << 20);
  EXPECT_EQ(*ParseBytes("40MB", "--shard-size"), 40'000'000u);
  EXPECT_EQ(*ParseBytes("1.5g", "--memory"), uint64_t{3} << 29);
  EXPECT_EQ(*ParseBytes("1048576", "--memory"), 1048576u);
  EXPECT_EQ(*ParseBytes("7b", "--memory"), 7u);
}

TEST(ParseBytes, RefusesWhatIsNoSizeAndNamesTheFlag) {
  for (const char* text :
       {"", "GiB", "-1MiB", "0", "12 parsecs", "1e30GiB", "nan", "inf", "4GiBx"}) {
    const auto bytes = ParseBytes(text, "--memory");
    ASSERT_FALSE(bytes.ok()) << text;
    EXPECT_EQ(ReasonOf(bytes.status()), Reason::kUsage) << text;
    EXPECT_NE(std::string(bytes.status().message()).find("--memory"), std::string::npos) << text;
  }
}

TEST(DurationText, GrowsItsUnits) {
  EXPECT_EQ(DurationText(0.44), "0.4 s");
  EXPECT_EQ(DurationText(9.97), "10 s");
  EXPECT_EQ(DurationText(200), "3 min 20 s");
  EXPECT_EQ(DurationText(7500), "2 h 5 min");
  EXPECT_EQ(DurationText(-3), "0.0 s");
}

TEST(BarText, FillsAndClamps) {
  EXPECT_EQ(BarText(0.5, 4), "[##..]");
  EXPECT_EQ(BarText(-1, 4), "[....]");
  EXPECT_EQ(BarText(7, 4), "[####]");
}

TEST(RateText, SaysNothingOfNothing) {
  EXPECT_EQ(RateText(0), "-");
  EXPECT_EQ(RateText(-5), "-");
  EXPECT_NE(RateText(1 << 20).find("/s"), std::string::npos);
}

}  // namespace
}  // namespace octavo
