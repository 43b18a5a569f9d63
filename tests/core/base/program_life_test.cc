#include "core/base/program_life.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "fmt/format.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

TEST(ProgramLife, ReportsReadinessAsOneLine) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  ASSERT_TRUE(ReportReady(fds[1], "127.0.0.1:1", "127.0.0.1:2").ok());
  std::string text(200, '\0');
  text.resize(static_cast<size_t>(read(fds[0], text.data(), text.size())));
  EXPECT_EQ(text, fmt::format("{{\"address\":\"127.0.0.1:1\",\"metrics\":\"127.0.0.1:2\","
                              "\"pid\":{}}}\n",
                              getpid()));
  EXPECT_EQ(read(fds[0], text.data(), 1), 0);  // closed
  close(fds[0]);
  EXPECT_TRUE(ReportReady(-1, "", "").ok());
}

TEST(ProgramLife, StopSignalsAreSeenByTheWaiter) {
  const pid_t child = fork();
  if (child == 0) {
    BlockStopSignals();
    std::thread([] {
      std::this_thread::sleep_for(milliseconds(20));
      kill(getpid(), SIGTERM);
    }).detach();
    const bool early = WaitForStop(milliseconds(1));
    _exit(!early && WaitForStop(milliseconds(5000)) ? 7 : 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
}

TEST(ProgramLife, EndsWithItsParent) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  const pid_t child = fork();
  if (child == 0) {
    close(fds[1]);
    ExitWithParent(fds[0]);
    for (;;) pause();
  }
  close(fds[0]);
  close(fds[1]);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 75);
}

}  // namespace
}  // namespace octavo
