// Jobs through Control with fake workers: no network, no weights read, everything else real.

#include "nlohmann/json.hpp"
#include "tests/coordinator/control/jobs_fixture.h"

namespace octavo {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

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

}  // namespace
}  // namespace octavo
