#include "core/text/bpe_merge.h"

#include <numeric>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using ::testing::ElementsAre;
using Ids = std::vector<int32_t>;

Ids Applied(const BpeMerges& merges, Ids ids) {
  merges.Apply(&ids);
  return ids;
}

TEST(BpeMergeTest, LowestRankFirstThenLeftmost) {
  BpeMerges merges;
  merges.Add(2, 3, 10, 0);  // bc
  merges.Add(1, 2, 11, 1);  // ab
  merges.Add(1, 10, 12, 2);
  EXPECT_THAT(Applied(merges, {1, 2, 3}), ElementsAre(12));
  EXPECT_THAT(Applied(merges, {1, 2, 1, 2, 3}), ElementsAre(11, 12));
  BpeMerges pair;
  pair.Add(1, 1, 5, 0);
  EXPECT_THAT(Applied(pair, {1, 1, 1}), ElementsAre(5, 1));
  EXPECT_THAT(Applied(pair, {1, 1, 1, 1}), ElementsAre(5, 5));
}

TEST(BpeMergeTest, APairGivenTwiceKeepsTheLaterRank) {
  BpeMerges merges;
  merges.Add(1, 2, 10, 0);
  merges.Add(2, 3, 11, 1);
  merges.Add(1, 2, 10, 2);
  EXPECT_THAT(Applied(merges, {1, 2, 3}), ElementsAre(1, 11));
}

TEST(BpeMergeTest, RulesOfEqualRankGoByPosition) {
  BpeMerges merges;
  merges.Add(2, 3, 10, 7);
  merges.Add(1, 2, 11, 7);
  EXPECT_THAT(Applied(merges, {1, 2, 3}), ElementsAre(11, 3));
}

TEST(BpeMergeTest, RulesOfEqualRankAreAppliedAsSoonAsTheyCanBe) {
  BpeMerges merges;
  merges.Add(2, 3, 10, 7);
  merges.Add(1, 2, 11, 7);
  merges.Add(11, 3, 12, 7);
  merges.Add(12, 12, 13, 6);
  for (const size_t repeats : {2, 200}) {
    Ids word;
    for (size_t i = 0; i < repeats; ++i) word.insert(word.end(), {1, 2, 3});
    EXPECT_EQ(Applied(merges, word), Ids(repeats / 2, 13));
  }
}

TEST(BpeMergeTest, FewerThanTwoSymbolsStay) {
  BpeMerges merges;
  merges.Add(1, 1, 2, 0);
  EXPECT_TRUE(Applied(merges, {}).empty());
  EXPECT_THAT(Applied(merges, {1}), ElementsAre(1));
}

// The textbook loop: look through the whole word for the best pair, once per merge.
Ids SlowMerge(const std::vector<std::array<int32_t, 3>>& rules, Ids ids) {
  while (true) {
    size_t best_rule = rules.size();
    size_t best_at = 0;
    for (size_t at = 0; at + 1 < ids.size(); ++at) {
      for (size_t rule = 0; rule < best_rule; ++rule) {
        if (rules[rule][0] == ids[at] && rules[rule][1] == ids[at + 1]) {
          best_rule = rule;
          best_at = at;
        }
      }
    }
    if (best_rule == rules.size()) return ids;
    ids[best_at] = rules[best_rule][2];
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

TEST(BpeMergeTest, EqualsTheTextbookLoopOnRandomWords) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::array<int32_t, 3>> rules;
    BpeMerges merges;
    int32_t next = 4;
    for (int i = 0; i < 20; ++i) {
      const auto left = static_cast<int32_t>(random() % static_cast<uint32_t>(next));
      const auto right = static_cast<int32_t>(random() % static_cast<uint32_t>(next));
      const bool known = std::any_of(rules.begin(), rules.end(), [&](const auto& rule) {
        return rule[0] == left && rule[1] == right;
      });
      if (known) continue;
      rules.push_back({left, right, next});
      merges.Add(left, right, next++, static_cast<uint32_t>(rules.size()));
    }
    // Long words wait in lists by rank; rules here make pairs of lower ranks, too.
    Ids word(round % 10 == 0 ? 256 + random() % 300 : random() % 40);
    for (int32_t& id : word) id = static_cast<int32_t>(random() % 4);
    EXPECT_EQ(Applied(merges, word), SlowMerge(rules, word));
  }
}

TEST(BpeMergeTest, RunsCutWhereNoTokenJoinsMergeToTheSame) {
  std::mt19937 random(4);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::array<int32_t, 3>> rules;
    BpeMerges merges;
    constexpr int32_t kSymbols = 6;
    std::vector<int32_t> first(kSymbols);
    std::iota(first.begin(), first.end(), 0);
    std::vector<int32_t> last = first;
    for (int i = 0; i < 12; ++i) {
      const size_t left = random() % first.size();
      const size_t right = random() % first.size();
      const std::array<int32_t, 3> rule = {static_cast<int32_t>(left), static_cast<int32_t>(right),
                                           static_cast<int32_t>(first.size())};
      const bool known = std::any_of(rules.begin(), rules.end(), [&](const auto& other) {
        return other[0] == rule[0] && other[1] == rule[1];
      });
      if (known) continue;
      merges.Add(rule[0], rule[1], rule[2], static_cast<uint32_t>(rules.size()));
      rules.push_back(rule);
      first.push_back(first[left]);
      last.push_back(last[right]);
    }
    merges.SetEnds(first, last);
    Ids word(100);
    for (int32_t& id : word) id = static_cast<int32_t>(random() % kSymbols);
    EXPECT_EQ(Applied(merges, word), SlowMerge(rules, word));
  }
}

TEST(BpeMergeTest, WorkGrowsLinearlyWithTheWord) {
  BpeMerges merges;
  for (int32_t id = 0; id < 24; ++id) {
    merges.Add(id, id, id + 1, static_cast<uint32_t>(id));  // runs of 2, 4, 8, ...
  }
  merges.Add(0, 1, 30, 24);
  for (const size_t size : {size_t{1} << 10, size_t{1} << 15, size_t{1} << 20}) {
    Ids word(size, 0);
    uint64_t steps = 0;
    merges.Apply(&word, &steps);
    EXPECT_LE(steps, 3 * size);
    EXPECT_EQ(word.size(), 1u);
  }
}

}  // namespace
}  // namespace octavo
