#include "worker/stage/source_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/base/error.h"
#include "fmt/format.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

constexpr uint64_t kFileBytes = (3u << 20) + 1234;  // the last block is not whole

class SourceFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // On the disk of the build: a memory file system may have no direct reads.
    dir_ = fmt::format("{}/source-files-{}", std::filesystem::current_path().string(), getpid());
    std::filesystem::create_directories(dir_);
    bytes_.resize(kFileBytes);
    uint64_t state = 7;
    for (std::byte& byte : bytes_) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      byte = static_cast<std::byte>(state >> 56);
    }
    std::ofstream(path()).write(reinterpret_cast<const char*>(bytes_.data()),
                                static_cast<std::streamsize>(bytes_.size()));
    Describe();
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string path() const { return dir_ + "/model.safetensors"; }

  // The task that reads the file as it is now.
  void Describe() {
    struct stat facts;
    ASSERT_EQ(stat(path().c_str(), &facts), 0);
    task_.Clear();
    task_.set_source_dir(dir_);
    v1::SourceFile& file = *task_.add_sources();
    file.set_name("model.safetensors");
    file.set_size(static_cast<uint64_t>(facts.st_size));
    file.set_mtime_ns(facts.st_mtim.tv_sec * int64_t{1'000'000'000} + facts.st_mtim.tv_nsec);
    task_.mutable_unit()->add_pieces()->mutable_source()->set_file("model.safetensors");
  }

  // Drops the file from the page cache.
  void Evict() const {
    const int fd = open(path().c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(fdatasync(fd), 0);
    ASSERT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    close(fd);
  }

  void ExpectEqual(SourceFiles* sources, uint64_t offset, uint64_t size) {
    const size_t room = SourceFiles::RoomFor(size) / SourceFiles::kBlock + 1;
    const std::unique_ptr<std::byte[], decltype(&std::free)> memory(
        static_cast<std::byte*>(
            std::aligned_alloc(SourceFiles::kBlock, room * SourceFiles::kBlock)),
        &std::free);
    const auto read = sources->Read("model.safetensors", offset, size,
                                    {memory.get(), SourceFiles::RoomFor(size)});
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(read->size(), size);
    EXPECT_TRUE(std::equal(read->begin(), read->end(), bytes_.begin() + offset))
        << size << " bytes from " << offset;
  }

  std::string dir_;
  std::vector<std::byte> bytes_;
  v1::Task task_;
};

TEST_F(SourceFilesTest, ReadsTheSameBytesPastTheCacheAndThroughIt) {
  for (const bool evicted : {true, false}) {
    for (const bool again : {false, true}) {
      SCOPED_TRACE(fmt::format("evicted {}, again {}", evicted, again));
      if (evicted) Evict();
      auto sources = SourceFiles::Open(task_);
      ASSERT_TRUE(sources.ok()) << sources.status();
      sources->Expect("model.safetensors", 8, kFileBytes - 8, again);
      for (const auto& [offset, size] :
           std::vector<std::pair<uint64_t, uint64_t>>{{8, 1},
                                                      {0, 4096},
                                                      {4095, 2},
                                                      {4096, 8192},
                                                      {12345, 1u << 20},
                                                      {kFileBytes - 1, 1},
                                                      {kFileBytes - 70000, 70000}}) {
        ExpectEqual(&*sources, offset, size);
      }
      EXPECT_TRUE(sources->CheckUnchanged().ok());
    }
  }
}

TEST_F(SourceFilesTest, AFileThatEndsEarlyIsSaidToHaveChanged) {
  for (const bool evicted : {true, false}) {
    auto sources = SourceFiles::Open(task_);
    ASSERT_TRUE(sources.ok()) << sources.status();
    std::filesystem::resize_file(path(), kFileBytes - 100'000);
    if (evicted) Evict();
    sources->Expect("model.safetensors", 0, kFileBytes, false);
    std::vector<std::byte> memory(SourceFiles::RoomFor(200'000));
    const auto read = sources->Read("model.safetensors", kFileBytes - 200'000, 200'000, memory);
    ASSERT_FALSE(read.ok());
    EXPECT_EQ(ReasonOf(read.status()), Reason::kSourceChanged);
    EXPECT_EQ(ReasonOf(sources->CheckUnchanged()), Reason::kSourceChanged);
    SetUp();
  }
}

}  // namespace
}  // namespace octavo
