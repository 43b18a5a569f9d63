#include "coordinator/planner/publish.h"

#include "core/base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/tiny_llama.h"

namespace octavo {
namespace {

using ::testing::HasSubstr;

Reason WhyNot(const std::string& source, const std::string& output) {
  const absl::Status status = CheckPlaces(source, output);
  EXPECT_FALSE(status.ok());
  return status.ok() ? Reason::kInternal : ReasonOf(status);
}

TEST(CheckPlaces, OutputAndSourceStayApart) {
  const TestFolder folder;
  std::filesystem::create_directories(folder / "src/inner");
  EXPECT_TRUE(CheckPlaces(folder / "src", folder / "out").ok());
  EXPECT_TRUE(CheckPlaces(folder / "src", folder / "src-fp8").ok());
  EXPECT_TRUE(CheckPlaces(folder / "src", folder / "not/yet/there").ok());
  EXPECT_EQ(WhyNot(folder / "src", folder / "src"), Reason::kOutputUnwritable);
  EXPECT_EQ(WhyNot(folder / "src", folder / "src/"), Reason::kOutputUnwritable);
  EXPECT_EQ(WhyNot(folder / "src", folder / "src/inner/out"), Reason::kOutputUnwritable);
  EXPECT_EQ(WhyNot(folder / "src/inner", folder / "src"), Reason::kOutputUnwritable);
  EXPECT_EQ(WhyNot(folder / "src", folder / "src/../src/out"), Reason::kOutputUnwritable);
  std::filesystem::create_directory_symlink(folder / "src", folder / "link");
  EXPECT_EQ(WhyNot(folder / "src", folder / "link/out"), Reason::kOutputUnwritable);
  WriteText(folder / "file", "x");
  EXPECT_EQ(WhyNot(folder / "src", folder / "file/out"), Reason::kOutputUnwritable);
}

TEST(CheckPlaces, MountPointsAreRefused) {
  const TestFolder folder;
  std::filesystem::create_directories(folder / "src");
  const absl::Status status = CheckPlaces(folder / "src", "/proc");
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("mount point"));
}

TEST(PublishFolder, NeverReplacesUnlessAsked) {
  const TestFolder folder;
  std::filesystem::create_directories(folder / "staged");
  WriteText(folder / "staged/a", "new");
  std::filesystem::create_directories(folder / "out");
  WriteText(folder / "out/a", "old");
  const absl::Status refused = PublishFolder(folder / "staged", folder / "out", false);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(ReasonOf(refused), Reason::kOutputExists);
  EXPECT_EQ(ReadText(folder / "out/a"), "old");
  ASSERT_TRUE(PublishFolder(folder / "staged", folder / "out", true).ok());
  EXPECT_EQ(ReadText(folder / "out/a"), "new");
  EXPECT_FALSE(std::filesystem::exists(folder / "staged"));
  EXPECT_TRUE(RemoveFolder(folder / "staged").ok());
}

TEST(StageFolder, SaysHowManyBytesAreMissing) {
  const TestFolder folder;
  v1::Job job;
  job.set_staging_dir(folder / "out.octavo/job");
  v1::Plan plan;
  v1::OutputFile* output = plan.add_outputs();
  output->set_name("model.safetensors");
  output->set_size(uint64_t{1} << 60);
  const absl::Status status = StageFolder(job, plan);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kDiskFull);
  EXPECT_THAT(std::string(status.message()), HasSubstr("needs 1152921504606846976 bytes"));
}

TEST(StageFolder, ChangedSideFileIsRefused) {
  const TestFolder folder;
  std::filesystem::create_directories(folder / "src");
  WriteText(folder / "src/tokenizer.json", "{}");
  v1::Job job;
  job.mutable_request()->set_source_dir(folder / "src");
  job.set_staging_dir(folder / "out.octavo/job");
  v1::Plan plan;
  v1::SourceFile* side = plan.add_side_files();
  side->set_name("tokenizer.json");
  side->set_size(2);
  side->mutable_header_digest()->set_low(1);
  const absl::Status status = StageFolder(job, plan);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(ReasonOf(status), Reason::kSourceChanged);
}

}  // namespace
}  // namespace octavo
