#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "core/base/checksum.h"
#include "core/base/clock.h"
#include "core/base/fault.h"
#include "core/base/ids.h"
#include "core/base/log.h"
#include "core/base/mutex.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

// Values published with the xxHash specification (empty input, seed 0).
TEST(Checksum, EmptyInputIsThePublishedDigest) {
  EXPECT_EQ(DigestOf(std::string_view{}).Hex(), "99aa06d3014798d86001c324468d497f");
}

TEST(Checksum, PiecesEqualTheWhole) {
  std::string text;
  for (int i = 0; i < 5000; ++i) text.push_back(static_cast<char>(i * 7));
  DigestStream stream;
  for (size_t at = 0, step = 1; at < text.size(); at += step, step = step * 3 % 257 + 1) {
    stream.Add(std::string_view(text).substr(at, step));
  }
  EXPECT_EQ(stream.Finish(), DigestOf(text));
}

TEST(Checksum, HexRoundTripAndRefusals) {
  const Digest128 digest = DigestOf("octavo");
  EXPECT_EQ(Digest128::FromHex(digest.Hex()), digest);
  EXPECT_FALSE(Digest128::FromHex("12"));
  EXPECT_FALSE(Digest128::FromHex(std::string(32, 'g')));
}

TEST(Ids, AreOfTheAskedLengthAndDiffer) {
  EXPECT_EQ(RandomHex(16).size(), 32u);
  EXPECT_EQ(RandomHex(3).size(), 6u);
  EXPECT_NE(RandomHex(16), RandomHex(16));
}

TEST(Clock, ManualMovesOnlyWhenTold) {
  ManualClock clock;
  EXPECT_EQ(clock.Now().count(), 0);
  clock.Advance(std::chrono::seconds(2));
  EXPECT_DOUBLE_EQ(Seconds(clock.Now()), 2.0);
}

TEST(Clock, SystemIsMonotonic) {
  const auto first = Clock::System().Now();
  EXPECT_GE(Clock::System().Now(), first);
}

TEST(Mutex, WaitForTimesOutAndNotifyWakes) {
  Mutex mutex;
  CondVar changed;
  bool ready = false;
  {
    MutexLock lock(mutex);
    EXPECT_FALSE(changed.WaitFor(mutex, std::chrono::milliseconds(1)) && ready);
  }
  std::thread other([&] {
    MutexLock lock(mutex);
    ready = true;
    changed.NotifyAll();
  });
  {
    MutexLock lock(mutex);
    while (!ready) changed.Wait(mutex);
  }
  other.join();
  EXPECT_TRUE(ready);
}

TEST(Log, UnknownLevelIsRefused) {
  EXPECT_FALSE(InitLogging("test", "loud").ok());
  EXPECT_TRUE(InitLogging("test", "warning").ok());
}

// A fault point kills at exactly the armed passage.
TEST(Fault, KillsAtTheCountedPassage) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ArmFaultPoint("here:3");
    for (int i = 1; i <= 5; ++i) {
      FaultPoint("elsewhere");
      FaultPoint("here");
      if (i == 3) _exit(1);
    }
    _exit(2);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
}

// With a file, only the process that creates it dies.
TEST(Fault, FileMakesItHappenOnce) {
  const std::string file = testing::TempDir() + "/fault_once_" + RandomHex(4);
  int killed = 0;
  for (int run = 0; run < 3; ++run) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ArmFaultPoint("here@" + file);
      FaultPoint("here");
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status)) ++killed;
  }
  EXPECT_EQ(killed, 1);
  unlink(file.c_str());
}

TEST(Fault, DisarmedDoesNothing) {
  ArmFaultPoint("");
  FaultPoint("here");
  SUCCEED();
}

}  // namespace
}  // namespace octavo
