// Jobs through Control with fake workers: no network, no weights read, everything else real.

#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <thread>

#include "coordinator/control/control.h"
#include "coordinator/control/job_journal.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/ids.h"
#include "core/checkpoint/synth.h"
#include "core/scheme/recipe.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/fake_worker.h"
#include "tests/fakes/memory_state_store.h"

namespace octavo {
namespace {

namespace fs = std::filesystem;

// Joint scales over q/k/v and gate/up: three phases.
constexpr char kPhases[] =
    "name: phases\ndescription: joint scales\ndialect: compressed-tensors\nrules:\n"
    "  - weight: {type: fp8, scale: tensor}\n    input: {type: fp8, scale: token}\n"
    "    algorithm: mse\n";

using std::chrono::milliseconds;
using ::testing::HasSubstr;

// A source of about 90 MB, made once: a dozen units.
class JobsTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    root_ = new fs::path(fs::temp_directory_path() / ("octavo-jobs-" + RandomHex(8)));
    fs::create_directories(*root_);
    MakeSource(*root_ / "source");
  }
  static void TearDownTestSuite() {
    fs::remove_all(*root_);
    delete root_;
  }
  static void MakeSource(const fs::path& dir) {
    SynthSpec spec;
    spec.model.set_hidden_size(1024);
    spec.model.set_intermediate_size(4096);
    spec.model.set_layer_count(3);
    spec.model.set_head_count(8);
    spec.model.set_kv_head_count(4);
    spec.model.set_vocab_size(320);
    const absl::Status written = WriteSynthetic(spec, 7, dir.string());
    ASSERT_TRUE(written.ok()) << written;
  }

  JobsTest() : output_(*root_ / ("out-" + RandomHex(4))) { Restart(); }
  ~JobsTest() override { control_.reset(); }

  // A coordinator over what the store and the disk hold.
  void Restart() {
    control_.reset();
    ControlOptions options;
    options.clock = &clock_;
    options.own_thread = false;
    auto started = Control::Start(options, &store_, &models_, &metrics_);
    ASSERT_TRUE(started.ok()) << started.status();
    control_ = *std::move(started);
  }

  v1::SubmitJobRequest Request(const std::string& recipe = "fp8-dynamic") const {
    v1::SubmitJobRequest request;
    request.mutable_quantize()->set_source_dir((*root_ / "source").string());
    request.mutable_quantize()->set_output_dir(output_.string());
    *request.mutable_quantize()->mutable_recipe() =
        recipe == "phases" ? *ParseRecipe(kPhases, "phases.yaml") : *Preset(recipe);
    return request;
  }

  std::string Submit(const v1::SubmitJobRequest& request) {
    const auto job = control_->Submit(request);
    EXPECT_TRUE(job.ok()) << job.status();
    return job.ok() ? job->id() : "";
  }
  v1::Job Job(const std::string& id) { return *control_->GetJob(id); }

  // Slow steps run on real threads: rounds go on until `done`, for at most 20 s.
  bool RoundsUntil(const std::function<bool()>& done) {
    for (int i = 0; i < 20'000; ++i) {
      control_->Step();
      if (done()) return true;
      std::this_thread::sleep_for(milliseconds(1));
    }
    return false;
  }
  bool RoundsUntilState(const std::string& id, v1::JobState state) {
    return RoundsUntil([&] { return Job(id).state() == state; });
  }
  // Workers do all they get until the job leaves RUNNING.
  bool WorkUntil(const std::string& id, v1::JobState state,
                 const std::vector<std::shared_ptr<FakeWorker>>& workers) {
    return RoundsUntil([&] {
      for (const auto& worker : workers) worker->DoOne();
      return Job(id).state() == state;
    });
  }
  // Over names and bytes of all files of the output.
  std::string OutputDigest() const {
    std::map<std::string, fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(output_)) {
      files[entry.path().filename()] = entry.path();
    }
    DigestStream all;
    std::string buffer(1 << 20, '\0');
    for (const auto& [name, path] : files) {
      all.Add(name);
      std::ifstream file(path, std::ios::binary);
      do {
        file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
        all.Add(std::string_view(buffer).substr(0, static_cast<size_t>(file.gcount())));
      } while (file);
    }
    return all.Finish().Hex();
  }

  static fs::path* root_;
  const fs::path output_;
  ManualClock clock_;
  MemoryStateStore store_;
  ModelTable models_;
  Metrics metrics_{MetricHome::kCoordinator, "test"};
  std::unique_ptr<Control> control_;
};
fs::path* JobsTest::root_ = nullptr;

TEST_F(JobsTest, RunsToAPublishedFolderAndAReport) {
  auto a = FakeWorker::Join(*control_, "a", 2);
  auto b = FakeWorker::Join(*control_, "b", 2);
  EXPECT_TRUE(a->directives.at(0).has_welcome());
  const std::string id = Submit(Request());
  ASSERT_TRUE(WorkUntil(id, v1::JOB_DONE, {a, b})) << Job(id).ShortDebugString();
  const v1::Job job = Job(id);
  EXPECT_GT(a->done, 0);
  EXPECT_GT(b->done, 0);
  EXPECT_EQ(job.progress().units_done(), job.progress().units_total());
  EXPECT_EQ(job.progress().units_done(), static_cast<uint64_t>(a->done + b->done));
  EXPECT_EQ(job.progress().source_bytes_done(), job.progress().source_bytes_total());
  EXPECT_TRUE(fs::exists(output_ / "octavo_manifest.json"));
  EXPECT_TRUE(fs::exists(output_ / "config.json"));
  EXPECT_FALSE(fs::exists(job.staging_dir()));
  EXPECT_FALSE(fs::exists(output_.string() + ".octavo"));
  std::ifstream report_file(job.report_path());
  const auto report = nlohmann::json::parse(report_file);
  EXPECT_EQ(report["units"]["total"], job.progress().units_total());
  EXPECT_EQ(report["workers"].size(), 2u);
  EXPECT_EQ(metrics_.ValueOf(metric::kJobsFinished, {"done"}), 1);
  EXPECT_EQ(metrics_.ValueOf(metric::kReceipts, {"done"}), a->done + b->done);
  // The journal forgot the units, not the job.
  EXPECT_TRUE(LoadReceipts(store_, id)->empty());
  EXPECT_EQ(LoadJobs(store_)->size(), 1u);
}

TEST_F(JobsTest, TheSameCommandAgainIsAlreadyDone) {
  auto a = FakeWorker::Join(*control_, "a", 4);
  const std::string id = Submit(Request());
  ASSERT_TRUE(WorkUntil(id, v1::JOB_DONE, {a}));
  EXPECT_FALSE(Job(id).already_done());
  const int done = a->done;
  Restart();
  EXPECT_EQ(Submit(Request()), id);
  ASSERT_TRUE(RoundsUntilState(id, v1::JOB_DONE));
  EXPECT_TRUE(Job(id).already_done());
  EXPECT_EQ(a->done, done);
  // Another recipe for the same output is refused, naming both.
  const std::string other = Submit(Request("int8-dynamic"));
  EXPECT_NE(other, id);
  ASSERT_TRUE(RoundsUntilState(other, v1::JOB_FAILED));
  EXPECT_EQ(Job(other).failure().reason(), "OUTPUT_EXISTS");
  EXPECT_THAT(Job(other).failure().message(), HasSubstr("int8-dynamic"));
  EXPECT_THAT(Job(other).failure().message(), HasSubstr("fp8-dynamic"));
}

TEST_F(JobsTest, OutputBytesDoNotDependOnWorkersOrOrder) {
  std::string first;
  for (const int workers : {1, 3}) {
    std::vector<std::shared_ptr<FakeWorker>> all;
    for (int i = 0; i < workers; ++i) {
      all.push_back(FakeWorker::Join(*control_, std::string(1, static_cast<char>('a' + i)), 2));
    }
    const std::string id = Submit(Request());
    ASSERT_TRUE(WorkUntil(id, v1::JOB_DONE, all));
    if (first.empty()) first = OutputDigest();
    EXPECT_EQ(OutputDigest(), first);
    fs::remove_all(output_);
    for (const auto& worker : all) control_->Leave(worker->session);
    control_->Step();
  }
}

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

TEST_F(JobsTest, CancelRevokesAndTheSameRequestResumes) {
  auto a = FakeWorker::Join(*control_, "a", 2);
  const std::string id = Submit(Request());
  ASSERT_TRUE(RoundsUntil([&] { return a->tasks.size() == 2; }));
  a->DoOne();
  control_->Step();
  const auto cancelled = control_->CancelJob(id);
  ASSERT_TRUE(cancelled.ok());
  EXPECT_EQ(cancelled->state(), v1::JOB_CANCELLED);
  EXPECT_TRUE(a->directives.back().has_revoke());
  EXPECT_TRUE(a->tasks.empty());
  EXPECT_EQ(Submit(Request()), id);
  a->Want(2);
  ASSERT_TRUE(WorkUntil(id, v1::JOB_DONE, {a}));
  EXPECT_EQ(Job(id).progress().units_reused(), 1u);
  EXPECT_EQ(static_cast<uint64_t>(a->done), Job(id).progress().units_total());
  EXPECT_EQ(ReasonOf(control_->CancelJob("nothing").status()), Reason::kNotFound);
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

TEST_F(JobsTest, AChangedSourceIsATypedErrorAndThenAFreshStart) {
  const fs::path source = *root_ / "changing";
  MakeSource(source);
  v1::SubmitJobRequest request = Request();
  request.mutable_quantize()->set_source_dir(source.string());
  auto a = FakeWorker::Join(*control_, "a", 2);
  const std::string id = Submit(request);
  ASSERT_TRUE(RoundsUntil([&] { return a->tasks.size() == 2; }));
  a->DoOne();
  control_->Step();
  ASSERT_TRUE(control_->CancelJob(id).ok());
  for (const auto& entry : fs::directory_iterator(source)) {
    if (entry.path().extension() == ".safetensors") {
      fs::last_write_time(entry.path(), fs::file_time_type::clock::now() + std::chrono::hours(1));
    }
  }
  EXPECT_EQ(Submit(request), id);
  ASSERT_TRUE(RoundsUntilState(id, v1::JOB_FAILED));
  EXPECT_EQ(Job(id).failure().reason(), "SOURCE_CHANGED");
  EXPECT_FALSE(fs::exists(output_));
  EXPECT_EQ(Submit(request), id);
  a->Want(2);
  ASSERT_TRUE(WorkUntil(id, v1::JOB_DONE, {a}));
  EXPECT_EQ(Job(id).progress().units_reused(), 0u);
  fs::remove_all(source);
  fs::remove_all(output_);
  EXPECT_EQ(Submit(request), id);
  ASSERT_TRUE(RoundsUntilState(id, v1::JOB_FAILED));
  EXPECT_EQ(Job(id).failure().reason(), "INPUT_MISSING");
}

TEST_F(JobsTest, RequestsAreChecked) {
  v1::SubmitJobRequest request = Request();
  request.mutable_quantize()->set_output_dir("relative");
  EXPECT_EQ(ReasonOf(control_->Submit(request).status()), Reason::kBadRequest);
  request = Request();
  request.mutable_quantize()->clear_recipe();
  EXPECT_EQ(ReasonOf(control_->Submit(request).status()), Reason::kBadRequest);
  request = Request();
  request.set_idempotency_key("k");
  const std::string id = Submit(request);
  EXPECT_EQ(Submit(request), id);
  request.mutable_quantize()->set_output_dir(output_.string() + "2");
  EXPECT_EQ(ReasonOf(control_->Submit(request).status()), Reason::kBadRequest);
  // Two jobs may not work on one output.
  EXPECT_EQ(ReasonOf(control_->Submit(Request()).status()), Reason::kBusy);
  request = Request();
  request.mutable_quantize()->set_output_dir((*root_ / "source" / "inside").string());
  const std::string inside = Submit(request);
  ASSERT_TRUE(RoundsUntilState(inside, v1::JOB_FAILED));
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

// Random histories: workers join, work, beat, hang, lie about epochs, leave; the job always ends
// with every unit done exactly once and the same bytes.
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
