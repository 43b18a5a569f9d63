#include "cli/cluster_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "fmt/format.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

class ClusterFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + fmt::format("cluster-file-{}", getpid());
    std::filesystem::create_directories(dir_);
    places_.state_dir = dir_ + "/state";
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string dir_;
  UserPlaces places_;
};

mode_t ModeOf(const std::string& path) {
  struct stat facts = {};
  EXPECT_EQ(stat(path.c_str(), &facts), 0) << path;
  return facts.st_mode & 0777;
}

TEST_F(ClusterFileTest, KeepsWhatWasWrittenForItsOwnerOnly) {
  ClusterRecord record;
  record.address = "127.0.0.1:1234";
  record.metrics = "127.0.0.1:2345";
  record.token = "secret";
  record.keeper_pid = 42;
  record.processes = {{.name = "coordinator", .pid = 43, .address = "", .metrics = ""},
                      {.name = "worker 0",
                       .pid = 44,
                       .address = "127.0.0.1:5",
                       .metrics = "127.0.0.1:6",
                       .restarts = 2}};
  ASSERT_TRUE(WriteClusterFile(dir_, record).ok());
  EXPECT_EQ(ModeOf(ClusterFilePath(dir_)), 0600u);
  const auto read = ReadClusterFile(dir_);
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->address, record.address);
  EXPECT_EQ(read->metrics, record.metrics);
  EXPECT_EQ(read->token, record.token);
  EXPECT_EQ(read->keeper_pid, 42);
  ASSERT_EQ(read->processes.size(), 1u);  // the workers
  EXPECT_EQ(read->processes[0].pid, 44);
  EXPECT_EQ(read->processes[0].metrics, "127.0.0.1:6");
  EXPECT_EQ(read->processes[0].restarts, 2);
}

TEST_F(ClusterFileTest, TellsMissingFromMalformed) {
  EXPECT_EQ(ReasonOf(ReadClusterFile(dir_).status()), Reason::kNotFound);
  std::ofstream(ClusterFilePath(dir_)) << "[1, 2";
  EXPECT_EQ(ReasonOf(ReadClusterFile(dir_).status()), Reason::kBadRequest);
}

TEST_F(ClusterFileTest, FindsTokensByAddress) {
  EXPECT_EQ(*FindToken(places_, "127.0.0.1:9", ""), "");
  ASSERT_TRUE(RegisterToken(places_, "127.0.0.1:9", "one").ok());
  EXPECT_EQ(ModeOf(places_.state_dir + "/clusters"), 0700u);
  EXPECT_EQ(ModeOf(places_.state_dir + "/clusters/127.0.0.1:9"), 0600u);
  EXPECT_EQ(*FindToken(places_, "127.0.0.1:9", ""), "one");
  EXPECT_EQ(*FindToken(places_, "127.0.0.1:10", ""), "");
  places_.token = "two";  // the environment wins over the register
  EXPECT_EQ(*FindToken(places_, "127.0.0.1:9", ""), "two");
  std::ofstream(dir_ + "/token") << "three\n";  // and a file over both
  EXPECT_EQ(*FindToken(places_, "127.0.0.1:9", dir_ + "/token"), "three");
  EXPECT_EQ(ReasonOf(FindToken(places_, "127.0.0.1:9", dir_ + "/no").status()),
            Reason::kInputMissing);
  places_.token.clear();
  ForgetToken(places_, "127.0.0.1:9");
  EXPECT_EQ(*FindToken(places_, "127.0.0.1:9", ""), "");
}

}  // namespace
}  // namespace octavo
