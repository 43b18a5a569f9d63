#include "core/tensor/bare/two_of_four.h"

#include <array>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace octavo {
namespace {

constexpr uint8_t kNegativeZero = 0x80;

// Bits of the two to keep, said plainly; 0 where there are more.
unsigned Plainly(const std::array<uint8_t, 4>& codes, bool signs) {
  const auto set_of = [&](auto keeps) {
    unsigned set = 0;
    for (unsigned i = 0; i < 4; ++i) set |= keeps(codes[i]) ? 1u << i : 0u;
    return set;
  };
  unsigned set = set_of([](uint8_t code) { return code != 0; });
  if (__builtin_popcount(set) > 2 && signs) {
    set = set_of([](uint8_t code) { return (code & 0x7f) != 0; });
  }
  if (__builtin_popcount(set) > 2) return 0;
  for (unsigned i = 0; i < 4 && __builtin_popcount(set) < 2; ++i) set |= 1u << i;
  return set;
}

TEST(TwoOfFour, EveryPatternOfZerosAndSigns) {
  constexpr std::array<uint8_t, 5> kCodes = {0, kNegativeZero, 1, 0xff, 0x7e};
  int packed = 0, refused = 0;
  for (int pattern = 0; pattern < 625; ++pattern) {
    std::array<uint8_t, 4> codes;
    for (int i = 0, rest = pattern; i < 4; ++i, rest /= 5) codes[i] = kCodes[rest % 5];
    for (const bool signs : {false, true}) {
      // Behind four columns that fit, so that both halves of a byte are written.
      const std::array<uint8_t, 8> row = {0, 7, 0, 9, codes[0], codes[1], codes[2], codes[3]};
      std::array<uint8_t, 4> kept{};
      uint8_t bits = 0xff;
      const unsigned want = Plainly(codes, signs);
      const int64_t wrong = PackTwoOfFour(row.data(), 8, signs, kept.data(), &bits);
      ASSERT_EQ(wrong, want == 0 ? 4 : -1) << pattern;
      (want == 0 ? refused : packed) += 1;
      if (want == 0) continue;
      EXPECT_EQ(bits, 0b1010u | want << 4) << pattern;
      std::array<uint8_t, 8> back;
      back.fill(0x55);
      ASSERT_EQ(ExpandTwoOfFour(kept.data(), &bits, 8, back.data()), -1);
      for (int i = 0; i < 8; ++i) {
        const bool dropped = i >= 4 && (want >> (i - 4) & 1u) == 0;
        EXPECT_EQ(back[i], dropped ? 0 : row[i]) << pattern;
        EXPECT_TRUE(!dropped || row[i] == 0 || (signs && row[i] == kNegativeZero)) << pattern;
      }
    }
  }
  EXPECT_GT(packed, 200);
  EXPECT_GT(refused, 200);
}

TEST(TwoOfFour, RowsOfTwelveColumnsPackInPlace) {
  EXPECT_EQ(BitmaskRowBytes(12), 2);
  std::vector<uint8_t> row = {1, 2, 0, 0, 0, 3, 0, 4, 0, 0, 0, 5};
  const std::vector<uint8_t> whole = row;
  std::array<uint8_t, 2> bits = {0xff, 0xff};
  ASSERT_EQ(PackTwoOfFour(row.data(), 12, false, row.data(), bits.data()), -1);
  EXPECT_EQ(std::vector<uint8_t>(row.begin(), row.begin() + 6),
            (std::vector<uint8_t>{1, 2, 3, 4, 0, 5}));
  EXPECT_EQ(bits, (std::array<uint8_t, 2>{0b10100011, 0b1001}));  // the padding is zero
  std::vector<uint8_t> back(12, 0x55);
  ASSERT_EQ(ExpandTwoOfFour(row.data(), bits.data(), 12, back.data()), -1);
  EXPECT_EQ(back, whole);
}

TEST(TwoOfFour, MasksOfOtherThanTwoAreToldOf) {
  const std::array<uint8_t, 4> kept = {1, 2, 3, 4};
  std::array<uint8_t, 8> codes;
  for (unsigned mask = 0; mask < 16; ++mask) {
    const auto bits = static_cast<uint8_t>(0b0011u | mask << 4);
    EXPECT_EQ(ExpandTwoOfFour(kept.data(), &bits, 8, codes.data()),
              __builtin_popcount(mask) == 2 ? -1 : 4)
        << mask;
  }
}

}  // namespace
}  // namespace octavo
