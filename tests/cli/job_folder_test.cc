#include "cli/job_folder.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "fmt/format.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

class JobFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + fmt::format("job-folder-{}", getpid());
    std::filesystem::create_directories(dir_);
    out_ = dir_ + "/out";
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string dir_;
  std::string out_;
};

TEST_F(JobFolderTest, OneCommandAtATime) {
  auto first = JobFolder::Open(out_);
  ASSERT_TRUE(first.ok());
  const auto second = JobFolder::Open(out_);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(ReasonOf(second.status()), Reason::kBusy);
  first->reset();
  EXPECT_TRUE(JobFolder::Open(out_).ok());
}

TEST_F(JobFolderTest, GoesAwayWhenNothingIsLeftToResume) {
  auto folder = JobFolder::Open(out_);
  ASSERT_TRUE(folder.ok());
  std::ofstream(out_ + ".octavo/journal.db") << "x";
  std::ofstream(out_ + ".octavo/worker-0.log") << "x";
  folder->reset();
  EXPECT_FALSE(std::filesystem::exists(out_ + ".octavo"));
}

TEST_F(JobFolderTest, StaysWhileAStagingFolderIsThere) {
  auto folder = JobFolder::Open(out_);
  ASSERT_TRUE(folder.ok());
  std::ofstream(out_ + ".octavo/journal.db") << "x";
  std::filesystem::create_directories(out_ + ".octavo/0123456789abcdef");
  folder->reset();
  EXPECT_TRUE(std::filesystem::exists(out_ + ".octavo/journal.db"));
  EXPECT_TRUE(JobFolder::Open(out_).ok());
}

TEST_F(JobFolderTest, AnUnwritablePlaceIsATypedError) {
  const auto folder = JobFolder::Open(dir_ + "/no/such/out");
  ASSERT_FALSE(folder.ok());
  EXPECT_EQ(ReasonOf(folder.status()), Reason::kInputMissing);
  EXPECT_NE(std::string(folder.status().message()).find("/no/such/out.octavo"), std::string::npos);
}

}  // namespace
}  // namespace octavo
