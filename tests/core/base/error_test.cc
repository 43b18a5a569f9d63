#include "core/base/error.h"

#include <cerrno>
#include <fstream>
#include <set>
#include <sstream>

#include "core/base/status.h"
#include "gtest/gtest.h"

namespace octavo {
namespace {

TEST(Error, TableIsInEnumOrderAndNamesAreUnique) {
  std::set<std::string> names;
  size_t index = 0;
  for (const ReasonInfo& info : AllReasons()) {
    EXPECT_EQ(static_cast<size_t>(info.reason), index++);
    EXPECT_TRUE(names.insert(std::string(info.name)).second) << info.name;
    EXPECT_EQ(ReasonFromName(info.name), info.reason);
    EXPECT_FALSE(info.doc.empty());
    EXPECT_NE(info.code, absl::StatusCode::kOk);
    EXPECT_GE(info.http_code, 400);
  }
  EXPECT_EQ(index, static_cast<size_t>(Reason::kHardware) + 1);
}

// Exit codes are an interface of Kubernetes Jobs: only these may occur.
TEST(Error, ExitCodesAreTheDocumentedOnes) {
  const std::set<int> documented = {64, 65, 66, 69, 70, 75, 77, 78};
  for (const ReasonInfo& info : AllReasons()) {
    EXPECT_TRUE(documented.contains(info.exit_code)) << info.name;
  }
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), 0);
}

TEST(Error, EveryReasonHasARowInTheInterfaceDocument) {
  std::ifstream file(OCTAVO_SOURCE_DIR "/docs/interfaces.md");
  std::stringstream text;
  text << file.rdbuf();
  for (const ReasonInfo& info : AllReasons()) {
    const std::string row = "| `" + std::string(info.name) + "` |";
    EXPECT_NE(text.str().find(row), std::string::npos) << row;
  }
}

TEST(Error, MessageNamesWhereAndCure) {
  const absl::Status status =
      MakeError(Reason::kBadCheckpoint, "two tensors overlap",
                {.file = "a.safetensors", .tensor = "w", .offset = 12}, "Download it again");
  EXPECT_EQ(status.message(),
            "two tensors overlap: file a.safetensors, tensor w, byte offset 12. Download it again");
  EXPECT_EQ(ReasonOf(status), Reason::kBadCheckpoint);
  EXPECT_EQ(ExitCodeOf(status), 65);
}

TEST(Error, ContextKeepsTheReason) {
  const absl::Status inner = MakeError(Reason::kFenced, "stale epoch 3");
  const absl::Status outer = WithContext(inner, "unit 7");
  EXPECT_EQ(outer.message(), "unit 7: stale epoch 3");
  EXPECT_EQ(ReasonOf(outer), Reason::kFenced);
  EXPECT_TRUE(WithContext(absl::OkStatus(), "x").ok());
}

TEST(Error, BareStatusesMapByCode) {
  EXPECT_EQ(ReasonOf(absl::CancelledError("x")), Reason::kCancelled);
  EXPECT_EQ(ReasonOf(absl::DeadlineExceededError("x")), Reason::kDeadline);
  EXPECT_EQ(ReasonOf(absl::UnavailableError("x")), Reason::kUnreachable);
  EXPECT_EQ(ReasonOf(absl::UnknownError("x")), Reason::kInternal);
}

TEST(Error, ErrnoChoosesTheReason) {
  EXPECT_EQ(ReasonOf(ErrnoError("cannot write", ENOSPC, {})), Reason::kDiskFull);
  EXPECT_EQ(ReasonOf(ErrnoError("cannot write", EFBIG, {})), Reason::kDiskFull);
  EXPECT_EQ(ReasonOf(ErrnoError("cannot open", ENOENT, {})), Reason::kInputMissing);
  EXPECT_EQ(ReasonOf(ErrnoError("cannot open", EACCES, {})), Reason::kPermission);
  EXPECT_EQ(ReasonOf(ErrnoError("cannot write", EROFS, {})), Reason::kOutputUnwritable);
  EXPECT_EQ(ReasonOf(ErrnoError("cannot read", EIO, {})), Reason::kIo);
}

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return MakeError(Reason::kBadRequest, "odd");
  return x / 2;
}

absl::StatusOr<int> Quarter(int x) {
  OCTAVO_ASSIGN_OR_RETURN(const int half, Half(x));
  OCTAVO_ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

TEST(Error, AssignOrReturnPassesValuesAndErrors) {
  EXPECT_EQ(*Quarter(12), 3);
  EXPECT_EQ(ReasonOf(Quarter(6).status()), Reason::kBadRequest);
}

}  // namespace
}  // namespace octavo
