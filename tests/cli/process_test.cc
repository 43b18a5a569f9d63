#include "cli/process.h"

#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "core/base/error.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

// A shell script in place of a program of ours. It gets --ready-fd 3 --parent-fd 4 appended.
class ProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = ::testing::TempDir() + fmt::format("process-{}", getpid());
    std::filesystem::create_directories(dir_);
    auto pipe = MakePipe();
    ASSERT_TRUE(pipe.ok());
    life_ = *std::move(pipe);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  ChildSpec Script(const std::string& text) {
    ChildSpec spec;
    spec.name = "the script";
    spec.program = "/bin/sh";
    spec.args = {"-c", text, "script"};
    spec.log_path = dir_ + "/log";
    return spec;
  }

  std::string dir_;
  Pipe life_;
};

TEST_F(ProcessTest, ReportsItsAddressAndStops) {
  const ChildSpec spec =
      Script(R"(echo '{"address":"127.0.0.1:7","metrics":"127.0.0.1:8","pid":1}' >&3; )"
             "exec 3>&-; exec sleep 60");
  auto child = Child::Spawn(spec, life_.read.get());
  ASSERT_TRUE(child.ok());
  const auto ready = child->AwaitReady(spec, milliseconds(10'000));
  ASSERT_TRUE(ready.ok()) << ready.status();
  EXPECT_EQ(ready->address, "127.0.0.1:7");
  EXPECT_EQ(ready->metrics, "127.0.0.1:8");
  EXPECT_TRUE(child->running());
  const pid_t pid = child->pid();
  EXPECT_EQ(getpgid(pid), pid) << "a process group of its own";
  child->Stop(milliseconds(5'000));
  EXPECT_FALSE(child->running());
  EXPECT_NE(kill(pid, 0), 0);
}

TEST_F(ProcessTest, AStoppedChildThatIgnoresTermIsKilled) {
  const ChildSpec spec =
      Script(R"(trap '' TERM; echo '{"address":"a:1"}' >&3; while :; do sleep 1; done)");
  auto child = Child::Spawn(spec, life_.read.get());
  ASSERT_TRUE(child.ok());
  ASSERT_TRUE(child->AwaitReady(spec, milliseconds(10'000)).ok());
  child->Signal(SIGSTOP);
  child->Stop(milliseconds(100));
  EXPECT_FALSE(child->running());
}

TEST_F(ProcessTest, AnEarlyExitCarriesReasonAndLastError) {
  for (const Reason reason : {Reason::kBusy, Reason::kHardware, Reason::kUsage}) {
    const ChildSpec spec = Script(
        fmt::format("echo 'error: first' >&2; echo 'error: the journal is locked' >&2; exit {}",
                    InfoOf(reason).exit_code));
    auto child = Child::Spawn(spec, life_.read.get());
    ASSERT_TRUE(child.ok());
    const auto ready = child->AwaitReady(spec, milliseconds(10'000));
    ASSERT_FALSE(ready.ok());
    EXPECT_EQ(ReasonOf(ready.status()), reason);
    EXPECT_EQ(std::string(ready.status().message()), "the journal is locked");
  }
}

TEST_F(ProcessTest, SilenceIsUnreachable) {
  const ChildSpec spec = Script("exec sleep 60");
  auto child = Child::Spawn(spec, life_.read.get());
  ASSERT_TRUE(child.ok());
  const auto ready = child->AwaitReady(spec, milliseconds(50));
  ASSERT_FALSE(ready.ok());
  EXPECT_EQ(ReasonOf(ready.status()), Reason::kUnreachable);
  child->Stop(milliseconds(5'000));
}

TEST_F(ProcessTest, NonsenseInsteadOfAnAddressIsABug) {
  const ChildSpec spec = Script("echo hello >&3; exec sleep 60");
  auto child = Child::Spawn(spec, life_.read.get());
  ASSERT_TRUE(child.ok());
  const auto ready = child->AwaitReady(spec, milliseconds(10'000));
  ASSERT_FALSE(ready.ok());
  EXPECT_THAT(std::string(ready.status().message()), HasSubstr("hello"));
  child->Stop(milliseconds(5'000));
}

TEST_F(ProcessTest, TheLifeLineEndsWithItsOwner) {
  const ChildSpec spec =
      Script(R"(echo '{"address":"a:1"}' >&3; exec 3>&-; cat <&4 >/dev/null; exit 9)");
  auto child = Child::Spawn(spec, life_.read.get());
  ASSERT_TRUE(child.ok());
  ASSERT_TRUE(child->AwaitReady(spec, milliseconds(10'000)).ok());
  EXPECT_FALSE(child->TryReap().has_value());
  life_.write.Reset();  // as when this process dies
  std::optional<int> status;
  for (int i = 0; i < 1000 && !status; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
    status = child->TryReap();
  }
  ASSERT_TRUE(status.has_value());
  EXPECT_EQ(ExitText(*status), "exited with 9");
}

TEST(OutputOf, ReturnsStandardOutputOrTheFailure) {
  const auto output = OutputOf("/bin/sh", {"-c", "echo one; echo two"});
  ASSERT_TRUE(output.ok());
  EXPECT_EQ(*output, "one\ntwo\n");
  const auto failed = OutputOf("/bin/sh", {"-c", "exit 66"});
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(ReasonOf(failed.status()), Reason::kInputMissing);
  EXPECT_FALSE(OutputOf("/nowhere/at/all", {}).ok());
}

}  // namespace
}  // namespace octavo
