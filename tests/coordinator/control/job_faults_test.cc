// Jobs whose workers, coordinators and disks fail.

#include <random>

#include "tests/coordinator/control/jobs_fixture.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;

TEST_F(JobsTest, ASilentWorkersLeasesReturnAndOnlyTheyAreRedone) {
  auto a = FakeWorker::Join(*control_, "a", 2);
  auto b = FakeWorker::Join(*control_, "b", 2);
  const std::string id = Submit(Request());
  ASSERT_TRUE(RoundsUntil([&] { return a->tasks.size() == 2 && b->tasks.size() == 2; }));
  a->DoOne();
  const v1::Task lost = a->tasks.front();
  for (int i = 0; i < 4; ++i) {  // b beats, a does not
    clock_.Advance(milliseconds(250));
    b->Beat();
    control_->Step();
  }
  EXPECT_FALSE(a->closed.ok());
  EXPECT_GE(metrics_.ValueOf(metric::kLeasesExpired), 1);
  const uint64_t retries = Job(id).progress().retries();
  // The dead worker speaks again, in its void session: nobody listens.
  v1::Report late;
  *late.mutable_receipt() = FakeWorker::ReceiptOf(lost);
  a->Report(late);
  ASSERT_TRUE(WorkUntil(id, v1::JOB_DONE, {b}));
  const v1::Job job = Job(id);
  EXPECT_EQ(job.progress().retries(), retries);
  EXPECT_EQ(static_cast<uint64_t>(b->done) + 1, job.progress().units_total());
}

TEST_F(JobsTest, StaleReceiptsAreFencedAndDuplicatesCompared) {
  auto a = FakeWorker::Join(*control_, "a", 1);
  const std::string id = Submit(Request());
  ASSERT_TRUE(RoundsUntil([&] { return !a->tasks.empty(); }));
  const v1::Task task = a->tasks.front();
  v1::Report stale;
  *stale.mutable_receipt() = FakeWorker::ReceiptOf(task);
  stale.mutable_receipt()->set_epoch(task.epoch() + 1000);
  a->Report(stale);
  control_->Step();
  EXPECT_EQ(Job(id).progress().units_done(), 0u);
  EXPECT_EQ(metrics_.ValueOf(metric::kReceipts, {"stale"}), 1);
  a->DoOne();
  v1::Report again;
  *again.mutable_receipt() = FakeWorker::ReceiptOf(task);
  a->Report(again);
  control_->Step();
  EXPECT_EQ(metrics_.ValueOf(metric::kReceipts, {"duplicate"}), 1);
  EXPECT_EQ(Job(id).progress().units_done(), 1u);
  EXPECT_TRUE(a->closed.ok());
}

TEST_F(JobsTest, AnotherDigestForADoneUnitQuarantinesTheWorkerAndTheUnitIsDoneAgain) {
  auto a = FakeWorker::Join(*control_, "a", 1);
  auto b = FakeWorker::Join(*control_, "b", 1);
  const std::string id = Submit(Request());
  ASSERT_TRUE(RoundsUntil([&] { return !a->tasks.empty() && !b->tasks.empty(); }));
  const v1::Task task = a->tasks.front();
  a->DoOne();
  control_->Step();
  v1::Report lie;
  *lie.mutable_receipt() = FakeWorker::ReceiptOf(task, /*salt=*/1);
  b->Report(lie);
  control_->Step();
  EXPECT_EQ(metrics_.ValueOf(metric::kDigestDisagreements), 1);
  EXPECT_EQ(ReasonOf(b->closed), Reason::kCorrupted);
  EXPECT_EQ(FakeWorker::Join(*control_, "b", 1)->session, 0u);  // not again
  EXPECT_EQ(Job(id).progress().units_done(), 0u);
  const v1::ListWorkersResponse listed = control_->ListWorkers();
  for (const v1::WorkerInfo& worker : listed.workers()) {
    EXPECT_EQ(worker.state(), worker.hello().worker_id() == "b" ? "quarantined" : "ready");
  }
  ASSERT_TRUE(WorkUntil(id, v1::JOB_DONE, {a}));
  EXPECT_EQ(static_cast<uint64_t>(a->done), Job(id).progress().units_total() + 1);
}

TEST_F(JobsTest, UnitsAreRetriedWithABoundAndFatalFailuresEndTheJob) {
  auto a = FakeWorker::Join(*control_, "a", 1);
  const std::string id = Submit(Request());
  for (uint32_t i = 0; i < JobDesk::kUnitFailuresMax; ++i) {
    ASSERT_TRUE(RoundsUntil([&] { return !a->tasks.empty(); }));
    EXPECT_EQ(a->tasks.front().unit().id(), 0u);
    a->FailOne("IO", /*retryable=*/true);
  }
  ASSERT_TRUE(RoundsUntilState(id, v1::JOB_FAILED));
  EXPECT_EQ(Job(id).failure().reason(), "IO");
  EXPECT_EQ(metrics_.ValueOf(metric::kRetries, {"IO"}), JobDesk::kUnitFailuresMax);

  EXPECT_EQ(Submit(Request()), id);  // resumes
  ASSERT_TRUE(RoundsUntil([&] { return !a->tasks.empty(); }));
  a->FailOne("NON_FINITE", /*retryable=*/false);
  ASSERT_TRUE(RoundsUntilState(id, v1::JOB_FAILED));
  EXPECT_EQ(Job(id).failure().reason(), "NON_FINITE");
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(JobsTest, AnotherCoordinatorOverTheSameJournalRedoesOnlyLeasedUnits) {
  std::mt19937 random(11);
  std::string first;
  for (const std::string recipe : {"fp8-dynamic", "fp8-dynamic", "phases"}) {
    std::string id = Submit(Request(recipe));
    int receipts = 0;
    for (int life = 0;; ++life) {
      auto a = FakeWorker::Join(*control_, "a" + std::to_string(life), 3);
      auto b = FakeWorker::Join(*control_, "b" + std::to_string(life), 3);
      const int last_words = 1 + static_cast<int>(random() % 6);
      const bool done = RoundsUntil([&] {
        if (life > 20 || a->done + b->done < last_words) {
          a->DoOne();
          if (life > 20 || a->done + b->done < last_words) b->DoOne();
        }
        const v1::JobState state = Job(id).state();
        return state == v1::JOB_DONE ||
               (state == v1::JOB_RUNNING && life <= 20 && a->done + b->done >= last_words);
      });
      ASSERT_TRUE(done) << Job(id).ShortDebugString().substr(0, 4000) << " " << a->done << " "
                        << b->done << " of " << last_words << ", " << a->tasks.size()
                        << b->tasks.size();
      receipts += a->done + b->done;
      control_->Leave(a->session);
      control_->Leave(b->session);
      if (Job(id).state() == v1::JOB_DONE) break;
      Restart();  // what was leased is lost, and so is what only reached the queue
      EXPECT_EQ(Job(id).state(), v1::JOB_CANCELLED);
      EXPECT_EQ(Submit(Request(recipe)), id);
    }
    EXPECT_EQ(static_cast<uint64_t>(receipts), Job(id).progress().units_total());
    if (recipe == "fp8-dynamic") {
      if (first.empty()) first = OutputDigest();
      EXPECT_EQ(OutputDigest(), first);
    }
    fs::remove_all(output_);
  }
}

TEST_F(JobsTest, ReceiptsWithoutTheirFilesAreVoid) {
  auto a = FakeWorker::Join(*control_, "a", 2);
  const std::string id = Submit(Request());
  ASSERT_TRUE(RoundsUntil([&] { return a->tasks.size() == 2; }));
  a->DoOne();
  control_->Step();
  const std::string staging = Job(id).staging_dir();
  Restart();
  fs::remove_all(staging);
  EXPECT_EQ(Submit(Request()), id);
  auto b = FakeWorker::Join(*control_, "b", 2);
  ASSERT_TRUE(WorkUntil(id, v1::JOB_DONE, {b}));
  EXPECT_EQ(static_cast<uint64_t>(b->done), Job(id).progress().units_total());
}

TEST_F(JobsTest, AJournalThatTakesNoWritesFailsTheJob) {
  auto a = FakeWorker::Join(*control_, "a", 2);
  const std::string id = Submit(Request());
  ASSERT_TRUE(RoundsUntil([&] { return a->tasks.size() == 2; }));
  store_.Break();
  a->DoOne();
  ASSERT_TRUE(RoundsUntilState(id, v1::JOB_FAILED));
  EXPECT_EQ(Job(id).failure().reason(), "DISK_FULL");
}

TEST_F(JobsTest, RandomHistoriesEndWithTheSameBytes) {
  std::string first;
  for (uint32_t seed = 0; seed < 8; ++seed) {
    std::mt19937 random(seed);
    const std::string id = Submit(Request());
    std::vector<std::shared_ptr<FakeWorker>> workers;
    std::vector<v1::Task> old_tasks;
    int joined = 0;
    const bool done = RoundsUntil([&] {
      if (workers.size() < 3 && random() % 2 == 0) {
        workers.push_back(
            FakeWorker::Join(*control_, "s" + std::to_string(seed) + "w" + std::to_string(joined++),
                             1 + random() % 3));
      }
      for (size_t i = 0; i < workers.size();) {
        auto& worker = workers[i];
        const uint32_t dice = random() % 20;
        if (dice < 12) {
          if (!worker->tasks.empty()) old_tasks.push_back(worker->tasks.front());
          worker->DoOne();
        } else if (dice < 14 && !worker->tasks.empty() && joined < 40) {
          worker->FailOne("UNREACHABLE", true);
          // a unit may fail only so often: the next ones succeed
          if (random() % 2 == 0) worker->DoOne();
        } else if (dice == 15 && !old_tasks.empty()) {
          v1::Report again;
          *again.mutable_receipt() = FakeWorker::ReceiptOf(old_tasks[random() % old_tasks.size()]);
          worker->Report(again);
        } else if (dice == 16 && joined < 40) {
          control_->Leave(worker->session);
          workers.erase(workers.begin() + static_cast<std::ptrdiff_t>(i));
          continue;
        }
        if (dice != 17) worker->Beat();
        ++i;
      }
      clock_.Advance(milliseconds(random() % 300));
      std::erase_if(workers, [](const auto& worker) { return !worker->closed.ok(); });
      const v1::JobState state = Job(id).state();
      if (state == v1::JOB_FAILED) Submit(Request());
      return state == v1::JOB_DONE;
    });
    ASSERT_TRUE(done) << "seed " << seed;
    if (first.empty()) first = OutputDigest();
    EXPECT_EQ(OutputDigest(), first) << "seed " << seed;
    fs::remove_all(output_);
    for (const auto& worker : workers) control_->Leave(worker->session);
  }
  EXPECT_EQ(metrics_.ValueOf(metric::kDigestDisagreements), 0);
}

}  // namespace
}  // namespace octavo
