#include "coordinator/state/state_store.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

#include "coordinator/state/sqlite_store.h"
#include "core/base/error.h"
#include "core/base/ids.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/memory_state_store.h"

namespace octavo {
namespace {

using Write = StateStore::Write;

class TempDir {
 public:
  TempDir() : path_(std::filesystem::temp_directory_path() / ("octavo-test-" + RandomHex(8))) {
    std::filesystem::create_directories(path_);
  }
  ~TempDir() { std::filesystem::remove_all(path_); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

// What any StateStore must do.
void ExerciseContract(StateStore& store) {
  EXPECT_FALSE(store.Get("a")->has_value());
  const Write first[] = {{"a", "1"}, {"b/1", "x"}, {"b/2", std::string("\0y", 2)}, {"c", ""}};
  ASSERT_TRUE(store.Apply(first).ok());
  EXPECT_EQ(**store.Get("a"), "1");
  EXPECT_EQ(**store.Get("c"), "");
  const Write second[] = {{"a", "2"},
                          {"b/1", std::nullopt},
                          {"absent", std::nullopt},
                          {"b/3", "z"},
                          {std::string("b\xff"), "w"}};
  ASSERT_TRUE(store.Apply(second).ok());
  EXPECT_EQ(**store.Get("a"), "2");
  auto scanned = store.Scan("b/");
  ASSERT_TRUE(scanned.ok());
  ASSERT_EQ(scanned->size(), 2u);
  EXPECT_EQ((*scanned)[0].key, "b/2");
  EXPECT_EQ((*scanned)[0].value, std::string("\0y", 2));
  EXPECT_EQ((*scanned)[1].key, "b/3");
  EXPECT_EQ(store.Scan("b")->size(), 3u);
  EXPECT_TRUE(store.Scan("nothing")->empty());
}

TEST(MemoryStateStore, Contract) {
  MemoryStateStore store;
  ExerciseContract(store);
}

TEST(SqliteStore, ContractAndReopen) {
  TempDir dir;
  {
    auto store = SqliteStore::Open(dir.path() + "/state");
    ASSERT_TRUE(store.ok()) << store.status();
    ExerciseContract(**store);
  }
  auto store = SqliteStore::Open(dir.path() + "/state");
  ASSERT_TRUE(store.ok()) << store.status();
  EXPECT_EQ(**(*store)->Get("a"), "2");
}

TEST(SqliteStore, SecondOpenIsBusy) {
  TempDir dir;
  auto first = SqliteStore::Open(dir.path());
  ASSERT_TRUE(first.ok());
  auto second = SqliteStore::Open(dir.path());
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(ReasonOf(second.status()), Reason::kBusy);
  EXPECT_EQ(ExitCodeOf(second.status()), 75);
}

TEST(SqliteStore, ForeignFileIsCorrupted) {
  TempDir dir;
  std::ofstream(dir.path() + "/journal.db") << std::string(5000, 'x');
  auto store = SqliteStore::Open(dir.path());
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(ReasonOf(store.status()), Reason::kCorrupted);
}

TEST(SqliteStore, CommittedBatchesSurviveAKillBetweenBatchesAndInsideOne) {
  TempDir dir;
  int to_parent[2];
  ASSERT_EQ(pipe(to_parent), 0);
  const pid_t child = fork();
  if (child == 0) {
    auto store = SqliteStore::Open(dir.path());
    for (int i = 0;; ++i) {
      const Write batch[] = {{"n", std::to_string(i)}, {"twice", std::to_string(2 * i)}};
      if (!(*store)->Apply(batch).ok()) _exit(1);
      if (write(to_parent[1], &i, sizeof i) != sizeof i) _exit(1);
    }
  }
  int last = -1;
  for (int i = 0; i < 30; ++i) ASSERT_EQ(read(to_parent[0], &last, sizeof last), 4);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  close(to_parent[1]);
  int more = 0;
  while (read(to_parent[0], &more, sizeof more) == 4) last = more;
  close(to_parent[0]);
  auto store = SqliteStore::Open(dir.path());  // the lock died with its holder
  ASSERT_TRUE(store.ok()) << store.status();
  const int n = std::stoi(**(*store)->Get("n"));
  EXPECT_GE(n, last);
  EXPECT_LE(n, last + 1);
  EXPECT_EQ(std::stoi(**(*store)->Get("twice")), 2 * n);
}

TEST(SqliteStore, FullDiskIsTypedAndTheOldStateStays) {
  TempDir dir;
  const pid_t child = fork();  // the limit is for the whole process
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);
    auto store = SqliteStore::Open(dir.path());
    const Write before[] = {{"kept", "yes"}};
    if (!(*store)->Apply(before).ok()) _exit(1);
    const rlimit limit{1 << 20, 1 << 20};
    setrlimit(RLIMIT_FSIZE, &limit);
    const Write big[] = {{"kept", "no"}, {"big", std::string(8 << 20, 'x')}};
    const absl::Status status = (*store)->Apply(big);
    if (status.ok()) _exit(2);
    const Reason reason = ReasonOf(status);
    if (reason != Reason::kDiskFull && reason != Reason::kIo) _exit(3);
    _exit(**(*store)->Get("kept") == "yes" ? 0 : 4);
  }
  int state = 0;
  waitpid(child, &state, 0);
  EXPECT_EQ(WEXITSTATUS(state), 0);
}

}  // namespace
}  // namespace octavo
