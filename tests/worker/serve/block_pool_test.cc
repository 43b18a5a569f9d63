#include "worker/serve/block_pool.h"

#include <numeric>

#include "gtest/gtest.h"

namespace octavo {
namespace {

using Table = std::vector<uint32_t>;

std::vector<int32_t> TokensFrom(int32_t first) {
  std::vector<int32_t> tokens(kKvBlockTokens);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// A table of blocks kept as TokensFrom(firsts[0]), then TokensFrom(firsts[1]), ...
Table Kept(BlockPool& pool, std::initializer_list<int32_t> firsts) {
  Table table;
  EXPECT_TRUE(pool.Grow(table, firsts.size() * kKvBlockTokens));
  BlockPool::Prefix prefix = BlockPool::kNoPrefix;
  size_t i = 0;
  for (const int32_t first : firsts) pool.Keep(prefix, TokensFrom(first), table[i++]);
  return table;
}

// As many of these blocks as are kept.
Table Reused(BlockPool& pool, std::initializer_list<int32_t> firsts) {
  Table table;
  BlockPool::Prefix prefix = BlockPool::kNoPrefix;
  for (const int32_t first : firsts) {
    if (!pool.Reuse(prefix, TokensFrom(first), table)) break;
  }
  return table;
}

TEST(BlockPool, GrowsAllOrNothing) {
  BlockPool pool(3);
  Table a, b;
  EXPECT_TRUE(pool.Grow(a, 33));
  EXPECT_EQ(a.size(), 2u);
  EXPECT_TRUE(pool.Grow(a, 64));
  EXPECT_EQ(a.size(), 2u);
  EXPECT_FALSE(pool.Grow(b, 33));
  EXPECT_TRUE(b.empty());
  EXPECT_TRUE(pool.Grow(b, 32));
  EXPECT_EQ(pool.free_count(), 0u);
  pool.Free(a);
  EXPECT_EQ(pool.free_count(), 2u);
}

TEST(BlockPool, KeptBlocksAreFoundByAllThatComesBefore) {
  BlockPool pool(8);
  Table one = Kept(pool, {100, 200, 300});
  EXPECT_EQ(pool.free_count(), 5u);
  Table two = Reused(pool, {100, 200, 300});
  EXPECT_EQ(two, one);
  EXPECT_EQ(Reused(pool, {200}), Table());
  Table other = Reused(pool, {100, 300});
  EXPECT_EQ(other, Table({one[0]}));
  pool.Free(one);
  // The second uses them still.
  EXPECT_EQ(pool.free_count(), 5u);
  pool.Free(two);
  EXPECT_EQ(pool.free_count(), 7u);
  pool.Free(other);
  EXPECT_EQ(pool.free_count(), 8u);
}

TEST(BlockPool, TheSameTwiceIsKeptOnce) {
  BlockPool pool(8);
  Table one = Kept(pool, {100, 200});
  Table two = Kept(pool, {100, 200, 300});
  pool.Free(two);
  Table found = Reused(pool, {100, 200, 300});
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(Table(found.begin(), found.begin() + 2), one);
}

TEST(BlockPool, WhatWasGivenBackFirstGoesFirst) {
  BlockPool pool(5);
  Table a = Kept(pool, {100, 200});
  Table b = Kept(pool, {300, 400});
  pool.Free(a);
  pool.Free(b);
  Table used = Reused(pool, {100});
  pool.Free(used);  // now the youngest
  Table taken;
  EXPECT_TRUE(pool.Grow(taken, 2 * kKvBlockTokens));  // the empty one and the end of `a`
  EXPECT_EQ(Reused(pool, {300, 400}).size(), 2u);     // in use from here on
  Table more;
  EXPECT_TRUE(pool.Grow(more, kKvBlockTokens));
  EXPECT_EQ(Reused(pool, {100}).size(), 0u);
  EXPECT_FALSE(pool.Grow(more, 2 * kKvBlockTokens));
}

}  // namespace
}  // namespace octavo
