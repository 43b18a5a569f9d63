#include "cli/progress.h"

#include <cstdlib>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

v1::Job HalfDone() {
  v1::Job job;
  job.set_state(v1::JOB_RUNNING);
  v1::JobProgress& progress = *job.mutable_progress();
  progress.set_units_total(10);
  progress.set_units_done(6);
  progress.set_units_reused(2);
  progress.set_source_bytes_total(1000 << 20);
  progress.set_source_bytes_done(600 << 20);
  progress.set_bytes_read(400 << 20);  // two units came from an earlier run
  progress.set_work_total(20);
  progress.set_work_done(12);
  progress.set_work_of_run(8);
  progress.set_elapsed_seconds(4);
  progress.set_read_seconds(1);
  progress.set_cast_seconds(3);
  progress.set_write_seconds(2);
  for (const char* id : {"aaaa", "bbbb"}) {
    v1::WorkerProgress& worker = *progress.add_workers();
    worker.set_worker_id(id);
    worker.set_state("busy");
    worker.set_units_done(2);
  }
  return job;
}

TEST(Progress, ForetellsFromThePaceOfThisRunOnly) {
  EXPECT_DOUBLE_EQ(SecondsLeft(HalfDone().progress()), 4.0);  // 8 left at 2 a second
  EXPECT_LT(SecondsLeft(v1::JobProgress()), 0);
}

TEST(Progress, NamesWhatLimits) {
  v1::JobProgress progress = HalfDone().progress();
  EXPECT_EQ(LimitingResource(progress), "cast");
  progress.set_read_seconds(9);
  EXPECT_EQ(LimitingResource(progress), "read");
  progress.set_write_seconds(10);
  EXPECT_EQ(LimitingResource(progress), "write");
  EXPECT_EQ(LimitingResource(v1::JobProgress()), "");
}

TEST(Progress, DrawsALinePerWorkerAndABar) {
  const auto lines = ProgressLines(HalfDone(), 200);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_THAT(lines[0], HasSubstr("aaaa"));
  EXPECT_THAT(lines[1], HasSubstr("bbbb"));
  EXPECT_THAT(lines[2], HasSubstr("60 %"));
  EXPECT_THAT(lines[2], HasSubstr("6 / 10 units"));
  EXPECT_THAT(lines[2], HasSubstr("100.0 MiB/s"));
  EXPECT_THAT(lines[2], HasSubstr("ETA 4.0 s"));
  EXPECT_THAT(lines[2], HasSubstr("limited by cast"));
  for (const std::string& line : ProgressLines(HalfDone(), 30)) EXPECT_LE(line.size(), 30u);
}

TEST(Progress, PrintsPlainLinesWithoutControlCharactersToAFile) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  ProgressDisplay display(file);
  display.Show(HalfDone());
  display.Show(HalfDone());  // at once: nothing new
  display.Finish();
  std::rewind(file);
  ASSERT_GT(getline(&text, &size, file), 0);
  EXPECT_EQ(std::string(text), PlainLine(HalfDone()) + "\n");
  EXPECT_EQ(std::string(text).find('\x1b'), std::string::npos);
  EXPECT_LT(getline(&text, &size, file), 0);
  std::free(text);
  std::fclose(file);
}

}  // namespace
}  // namespace octavo
