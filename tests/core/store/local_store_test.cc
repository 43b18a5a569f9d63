#include "core/store/local_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "core/base/error.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;

class LocalStoreTest : public testing::Test {
 protected:
  LocalStoreTest() {
    std::string name = testing::TempDir() + "octavo-store-XXXXXX";
    root_ = ::mkdtemp(name.data());
  }
  ~LocalStoreTest() override { fs::remove_all(root_); }
  std::string At(std::string_view name) const { return JoinPath(root_, name); }
  static std::span<const std::byte> Bytes(std::string_view text) {
    return std::as_bytes(std::span(text));
  }
  std::string Read(const std::string& path) const { return *ReadWhole(store_, path, 1 << 20); }

  std::string root_;
  LocalStore store_;
};

TEST_F(LocalStoreTest, WritesAndReadsRanges) {
  ASSERT_TRUE(store_.CreateFile(At("a"), 10, false).ok());
  ASSERT_TRUE(store_.WriteAt(At("a"), 4, Bytes("xyz")).ok());
  ASSERT_TRUE(store_.Sync(At("a")).ok());
  EXPECT_EQ(Read(At("a")), std::string("\0\0\0\0xyz\0\0\0", 10));
  std::string part(3, '?');
  ASSERT_TRUE(store_.ReadAt(At("a"), 4, std::as_writable_bytes(std::span(part))).ok());
  EXPECT_EQ(part, "xyz");
  EXPECT_EQ(store_.Stat(At("a"))->size, 10u);
  EXPECT_GT(store_.Stat(At("a"))->mtime_ns, 0);
}

TEST_F(LocalStoreTest, ReadPastTheEndSaysWhere) {
  ASSERT_TRUE(WriteWhole(store_, At("a"), "12345").ok());
  std::string part(4, '?');
  const absl::Status status = store_.ReadAt(At("a"), 3, std::as_writable_bytes(std::span(part)));
  EXPECT_EQ(ReasonOf(status), Reason::kIo);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("byte offset 5"));
}

TEST_F(LocalStoreTest, WritesNeverGrowAFile) {
  ASSERT_TRUE(store_.CreateFile(At("a"), 4, false).ok());
  EXPECT_EQ(ReasonOf(store_.WriteAt(At("a"), 2, Bytes("xyz"))), Reason::kInternal);
  EXPECT_EQ(ReasonOf(store_.WriteAt(At("a"), ~uint64_t{0}, Bytes("xyz"))), Reason::kInternal);
  EXPECT_EQ(ReasonOf(store_.WriteAt(At("b"), 0, Bytes("xyz"))), Reason::kInputMissing);
}

TEST_F(LocalStoreTest, KeepsAFileOfTheRightSizeOnly) {
  ASSERT_TRUE(WriteWhole(store_, At("a"), "1234").ok());
  ASSERT_TRUE(store_.CreateFile(At("a"), 4, /*keep_existing=*/true).ok());
  EXPECT_EQ(Read(At("a")), "1234");
  ASSERT_TRUE(store_.CreateFile(At("a"), 5, /*keep_existing=*/true).ok());
  EXPECT_EQ(Read(At("a")), std::string(5, '\0'));
}

TEST_F(LocalStoreTest, ReplacingDoesNotWriteThroughALink) {
  ASSERT_TRUE(WriteWhole(store_, At("original"), "precious").ok());
  fs::create_symlink("original", At("link"));
  ASSERT_TRUE(WriteWhole(store_, At("link"), "new").ok());
  EXPECT_EQ(Read(At("original")), "precious");
  EXPECT_EQ(Read(At("link")), "new");
}

TEST_F(LocalStoreTest, RefusesWhatIsNoRegularFileWithoutBlocking) {
  ASSERT_EQ(::mkfifo(At("fifo").c_str(), 0600), 0);
  fs::create_directory(At("folder"));
  std::byte one;
  for (const char* name : {"fifo", "folder"}) {
    EXPECT_EQ(ReasonOf(store_.Stat(At(name)).status()), Reason::kUnsupported) << name;
    EXPECT_FALSE(store_.ReadAt(At(name), 0, {&one, 1}).ok()) << name;
    EXPECT_FALSE(store_.WriteAt(At(name), 0, {&one, 1}).ok()) << name;
  }
  EXPECT_EQ(ReasonOf(store_.Stat(At("none")).status()), Reason::kInputMissing);
}

TEST_F(LocalStoreTest, ListsSortedAndFollowsLinks) {
  ASSERT_TRUE(WriteWhole(store_, At("b"), "22").ok());
  fs::create_directory(At("a"));
  fs::create_symlink("b", At("c"));
  fs::create_symlink("nowhere", At("d"));
  const auto entries = store_.List(root_);
  ASSERT_TRUE(entries.ok());
  ASSERT_EQ(entries->size(), 4u);
  EXPECT_EQ((*entries)[0].name, "a");
  EXPECT_TRUE((*entries)[0].directory);
  EXPECT_TRUE((*entries)[1].regular);
  EXPECT_TRUE((*entries)[2].regular);
  EXPECT_EQ((*entries)[2].size, 2u);
  EXPECT_FALSE((*entries)[3].regular || (*entries)[3].directory);
  EXPECT_EQ(ReasonOf(store_.List(At("none")).status()), Reason::kInputMissing);
}

TEST_F(LocalStoreTest, PublishesOnce) {
  ASSERT_TRUE(store_.CreateDirectories(At("stage/deep")).ok());
  ASSERT_TRUE(WriteWhole(store_, At("stage/deep/f"), "1").ok());
  ASSERT_TRUE(store_.Publish(At("stage"), At("out"), PublishMode::kNoReplace).ok());
  EXPECT_FALSE(store_.Exists(At("stage")));
  EXPECT_EQ(Read(At("out/deep/f")), "1");

  ASSERT_TRUE(store_.CreateDirectories(At("stage")).ok());
  const absl::Status again = store_.Publish(At("stage"), At("out"), PublishMode::kNoReplace);
  EXPECT_EQ(ReasonOf(again), Reason::kOutputExists);
  EXPECT_EQ(Read(At("out/deep/f")), "1");
}

TEST_F(LocalStoreTest, ExchangeReplacesAndRemovesTheOld) {
  ASSERT_TRUE(store_.CreateDirectories(At("out")).ok());
  ASSERT_TRUE(WriteWhole(store_, At("out/old"), "1").ok());
  ASSERT_TRUE(store_.CreateDirectories(At("stage")).ok());
  ASSERT_TRUE(WriteWhole(store_, At("stage/new"), "2").ok());
  ASSERT_TRUE(store_.Publish(At("stage"), At("out"), PublishMode::kExchange).ok());
  EXPECT_FALSE(store_.Exists(At("stage")));
  EXPECT_FALSE(store_.Exists(At("out/old")));
  EXPECT_EQ(Read(At("out/new")), "2");
  // Nothing to exchange with is fine too.
  ASSERT_TRUE(store_.Publish(At("out"), At("other"), PublishMode::kExchange).ok());
  EXPECT_EQ(Read(At("other/new")), "2");
}

TEST_F(LocalStoreTest, RemovesTreesButNotWhatLinksPointTo) {
  ASSERT_TRUE(WriteWhole(store_, At("kept"), "1").ok());
  ASSERT_TRUE(store_.CreateDirectories(At("tree/sub")).ok());
  fs::create_symlink("../kept", At("tree/link"));
  ASSERT_TRUE(store_.RemoveTree(At("tree")).ok());
  EXPECT_FALSE(store_.Exists(At("tree")));
  EXPECT_EQ(Read(At("kept")), "1");
  EXPECT_TRUE(store_.RemoveTree(At("tree")).ok());
}

TEST_F(LocalStoreTest, KnowsFreeSpaceOfAPathThatDoesNotExistYet) {
  const auto free = store_.FreeBytes(At("not/there/yet"));
  ASSERT_TRUE(free.ok());
  EXPECT_GT(*free, 0u);
}

TEST_F(LocalStoreTest, WholeFilesAreBounded) {
  ASSERT_TRUE(WriteWhole(store_, At("a"), "12345").ok());
  EXPECT_EQ(ReasonOf(ReadWhole(store_, At("a"), 4).status()), Reason::kBadCheckpoint);
  EXPECT_TRUE(ReadWhole(store_, At("a"), 5).ok());
}

TEST(PlainFileNameTest, StaysInsideItsFolder) {
  for (const char* good : {"a", "model-00001-of-00002.safetensors", "..a", ".hidden"}) {
    EXPECT_TRUE(IsPlainFileName(good)) << good;
  }
  const std::string bad[] = {"",
                             ".",
                             "..",
                             "a/b",
                             "../x",
                             "/etc/passwd",
                             "a/..",
                             std::string("a\0b", 3),
                             std::string(256, 'a')};
  for (const std::string& name : bad) EXPECT_FALSE(IsPlainFileName(name)) << name;
}

}  // namespace
}  // namespace octavo
