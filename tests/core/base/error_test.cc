#include "core/base/error.h"

#include <cerrno>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <sstream>
#include <vector>

#include "core/base/status.h"
#include "fmt/format.h"
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

std::string InterfaceDocument() {
  std::ifstream file(OCTAVO_SOURCE_DIR "/docs/interfaces.md");
  return {std::istreambuf_iterator<char>(file), {}};
}

// The row of the table that people read.
std::string RowOf(const ReasonInfo& info) {
  return fmt::format("| `{}` | {} | {} | {} | {} | {} |", info.name,
                     absl::StatusCodeToString(info.code), info.http_code, info.exit_code,
                     info.retryable ? "yes" : "no", info.doc);
}

TEST(Error, TheInterfaceDocumentHasThisTableLineByLine) {
  std::vector<std::string> expected;
  for (const ReasonInfo& info : AllReasons()) expected.push_back(RowOf(info));
  std::vector<std::string> found;
  std::istringstream text(InterfaceDocument());
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with("| reason |")) {
      ASSERT_TRUE(std::getline(text, line));  // the rule below the head
      while (std::getline(text, line) && line.starts_with("|")) found.push_back(line);
    }
  }
  EXPECT_EQ(found, expected);
}

// Exit codes are an interface of Kubernetes Jobs: those that occur are those that the document
// explains below the table.
TEST(Error, ExitCodesAreTheDocumentedOnes) {
  std::set<int> used = {ExitCodeOf(absl::OkStatus())};
  for (const ReasonInfo& info : AllReasons()) {
    used.insert(info.exit_code);
    // What is worth another try says so to a script, too.
    if (info.retryable) {
      EXPECT_TRUE(info.exit_code == 75 || info.exit_code == 69) << info.name;
    } else if (info.reason != Reason::kFenced) {
      EXPECT_NE(info.exit_code, 75) << info.name;
    }
  }
  const std::string text = InterfaceDocument();
  const size_t begin = text.find("Exit codes follow sysexits:");
  ASSERT_NE(begin, std::string::npos);
  const std::string paragraph = text.substr(begin, text.find("\n\n", begin) - begin);
  std::set<int> documented;
  const std::regex code("[:,]\\s([0-9]+) [a-z]");
  for (std::sregex_iterator it(paragraph.begin(), paragraph.end(), code), end; it != end; ++it) {
    documented.insert(std::stoi((*it)[1]));
  }
  EXPECT_EQ(documented, used);
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
