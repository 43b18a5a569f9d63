#include "worker/service/task_runner.h"

#include <atomic>
#include <chrono>

#include "core/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using testing::UnorderedElementsAre;

template <typename Condition>
bool Eventually(Condition condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(2));
  }
  return false;
}

// A coordinator's ear and a stage whose tasks take as long as the test wants.
class Bench {
 public:
  TaskRunner::Hooks hooks() {
    return {.run = [this](const v1::Task& task, std::stop_token stop) { return Run(task, stop); },
            .prefetch = [this](const v1::Task&) { ++prefetched; },
            .sync =
                [this] {
                  ++synced;
                  MutexLock lock(mutex_);
                  return sync_status_;
                },
            .send = [this](v1::Report report) { Hear(report); }};
  }

  static v1::Task Task(uint32_t unit, const std::string& job = "job") {
    v1::Task task;
    task.set_job_id(job);
    task.set_epoch(3);
    task.mutable_unit()->set_id(unit);
    return task;
  }

  std::vector<uint32_t> receipts() {
    MutexLock lock(mutex_);
    return receipts_;
  }
  std::vector<v1::TaskFailed> failures() {
    MutexLock lock(mutex_);
    return failures_;
  }
  void FailSync(const absl::Status& status) {
    MutexLock lock(mutex_);
    sync_status_ = status;
  }

  std::atomic<int> wanted = 0;
  std::atomic<int> prefetched = 0;
  std::atomic<int> synced = 0;
  std::atomic<int> running = 0;
  std::atomic<int> unsynced_receipts = 0;
  std::atomic<bool> hold = false;
  std::atomic<uint32_t> failing_unit = UINT32_MAX;

 private:
  absl::StatusOr<v1::Receipt> Run(const v1::Task& task, const std::stop_token& stop) {
    ++running;
    while (hold && !stop.stop_requested()) std::this_thread::sleep_for(milliseconds(1));
    --running;
    if (stop.stop_requested()) return MakeError(Reason::kCancelled, "stopped");
    if (task.unit().id() == failing_unit) return MakeError(Reason::kNonFinite, "a NaN");
    v1::Receipt receipt;
    receipt.set_unit_id(task.unit().id());
    return receipt;
  }

  void Hear(const v1::Report& report) {
    MutexLock lock(mutex_);
    if (report.has_want()) wanted += static_cast<int>(report.want().count());
    if (report.has_task_failed()) failures_.push_back(report.task_failed());
    if (report.has_receipt()) {
      receipts_.push_back(report.receipt().unit_id());
      if (synced == 0) ++unsynced_receipts;
    }
  }

  Mutex mutex_;
  std::vector<uint32_t> receipts_;
  std::vector<v1::TaskFailed> failures_;
  absl::Status sync_status_;
};

TEST(TaskRunner, AsksForTwoTasksPerSlotAndGivesRoomBack) {
  Bench bench;
  TaskRunner runner(2, bench.hooks());
  EXPECT_EQ(bench.wanted, 0);
  runner.Attached();
  EXPECT_EQ(bench.wanted, 4);
  for (uint32_t unit = 0; unit < 4; ++unit) runner.Add(Bench::Task(unit));
  ASSERT_TRUE(Eventually([&] { return bench.receipts().size() == 4; }));
  EXPECT_THAT(bench.receipts(), UnorderedElementsAre(0, 1, 2, 3));
  EXPECT_EQ(bench.prefetched, 4);
  EXPECT_EQ(bench.unsynced_receipts, 0);
  EXPECT_TRUE(Eventually([&] { return bench.wanted == 8; }));
}

TEST(TaskRunner, AFailureIsReportedWithItsReason) {
  Bench bench;
  bench.failing_unit = 1;
  TaskRunner runner(1, bench.hooks());
  runner.Attached();
  runner.Add(Bench::Task(0));
  runner.Add(Bench::Task(1));
  ASSERT_TRUE(Eventually([&] { return bench.failures().size() == 1; }));
  const v1::TaskFailed failed = bench.failures()[0];
  EXPECT_EQ(failed.unit_id(), 1u);
  EXPECT_EQ(failed.epoch(), 3u);
  EXPECT_EQ(failed.job_id(), "job");
  EXPECT_EQ(failed.failure().reason(), "NON_FINITE");
  EXPECT_FALSE(failed.retryable());
  EXPECT_TRUE(Eventually([&] { return bench.receipts().size() == 1; }));
  EXPECT_TRUE(Eventually([&] { return bench.wanted == 4; }));
}

TEST(TaskRunner, AFailedSyncSendsNoReceipt) {
  Bench bench;
  bench.FailSync(MakeError(Reason::kDiskFull, "no space"));
  TaskRunner runner(1, bench.hooks());
  runner.Attached();
  runner.Add(Bench::Task(5));
  ASSERT_TRUE(Eventually([&] { return bench.failures().size() == 1; }));
  EXPECT_EQ(bench.failures()[0].failure().reason(), "DISK_FULL");
  EXPECT_TRUE(bench.failures()[0].retryable());
  EXPECT_TRUE(bench.receipts().empty());
}

TEST(TaskRunner, ALostLeaseStopsTasksInSilence) {
  Bench bench;
  bench.hold = true;
  TaskRunner runner(1, bench.hooks());
  runner.Attached();
  runner.Add(Bench::Task(0));
  runner.Add(Bench::Task(1));
  ASSERT_TRUE(Eventually([&] { return bench.running == 1; }));
  runner.Detached();
  ASSERT_TRUE(Eventually([&] { return bench.running == 0; }));
  runner.Add(Bench::Task(2));  // too late: not ours any more
  std::this_thread::sleep_for(milliseconds(20));
  const int before = bench.wanted;
  bench.hold = false;
  runner.Attached();
  EXPECT_EQ(bench.wanted, before + 2);
  runner.Add(Bench::Task(7));
  ASSERT_TRUE(Eventually([&] { return bench.receipts().size() == 1; }));
  EXPECT_EQ(bench.receipts()[0], 7u);
  EXPECT_TRUE(bench.failures().empty());
}

TEST(TaskRunner, RevokedJobsAreDroppedAndOthersGoOn) {
  Bench bench;
  bench.hold = true;
  TaskRunner runner(1, bench.hooks());
  runner.Attached();
  runner.Add(Bench::Task(0, "old"));
  ASSERT_TRUE(Eventually([&] { return bench.running == 1; }));
  runner.Add(Bench::Task(1, "old"));
  runner.Revoke("old");
  ASSERT_TRUE(Eventually([&] { return bench.running == 0; }));
  ASSERT_TRUE(Eventually([&] { return bench.wanted == 4; }));
  bench.hold = false;
  runner.Add(Bench::Task(2, "new"));
  ASSERT_TRUE(Eventually([&] { return bench.receipts().size() == 1; }));
  EXPECT_EQ(bench.receipts()[0], 2u);
  EXPECT_TRUE(bench.failures().empty());
}

}  // namespace
}  // namespace octavo
