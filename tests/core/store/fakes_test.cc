// The stores that other tests stand on keep the contract too.

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/fakes/faulty_store.h"
#include "tests/fakes/memory_store.h"

namespace octavo {
namespace {

TEST(MemoryStoreTest, KeepsTheContract) {
  MemoryStore store;
  ASSERT_TRUE(WriteWhole(store, "dir/stage/f", "12345").ok());
  EXPECT_EQ(*ReadWhole(store, "dir/stage/f", 5), "12345");
  EXPECT_EQ(ReasonOf(store.Stat("dir/none").status()), Reason::kInputMissing);
  std::byte bytes[3];
  EXPECT_EQ(ReasonOf(store.ReadAt("dir/stage/f", 3, bytes)), Reason::kIo);
  EXPECT_EQ(ReasonOf(store.WriteAt("dir/stage/f", 3, bytes)), Reason::kInternal);
  const auto entries = store.List("dir");
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 1u);
  EXPECT_TRUE((*entries)[0].directory);
  ASSERT_TRUE(store.Publish("dir/stage", "dir/out", PublishMode::kNoReplace).ok());
  EXPECT_EQ(store.Get("dir/out/f"), "12345");
  EXPECT_FALSE(store.Exists("dir/stage"));
  ASSERT_TRUE(WriteWhole(store, "dir/stage/g", "6").ok());
  EXPECT_EQ(ReasonOf(store.Publish("dir/stage", "dir/out", PublishMode::kNoReplace)),
            Reason::kOutputExists);
  ASSERT_TRUE(store.Publish("dir/stage", "dir/out", PublishMode::kExchange).ok());
  EXPECT_FALSE(store.Exists("dir/out/f"));
  ASSERT_TRUE(store.RemoveTree("dir").ok());
  EXPECT_FALSE(store.Exists("dir"));
}

TEST(FaultyStoreTest, FailsTheCallItWasToldTo) {
  MemoryStore memory;
  FaultyStore store(&memory);
  store.FailAt(FaultyStore::Call::kWrite, 2, Reason::kDiskFull);
  ASSERT_TRUE(store.CreateFile("f", 2, false).ok());
  const std::byte one[1] = {};
  EXPECT_TRUE(store.WriteAt("f", 0, one).ok());
  EXPECT_EQ(ReasonOf(store.WriteAt("f", 1, one)), Reason::kDiskFull);
  EXPECT_TRUE(store.WriteAt("f", 1, one).ok());
  EXPECT_EQ(store.failures(), 1);
  store.FailAt(FaultyStore::Call::kSync, 1, Reason::kIo, /*forever=*/true);
  EXPECT_FALSE(store.Sync("f").ok());
  EXPECT_FALSE(store.Sync("f").ok());
}

}  // namespace
}  // namespace octavo
