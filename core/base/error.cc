#include "core/base/error.h"

#include <array>
#include <cerrno>
#include <cstring>

#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr const char* kPayloadUrl = "octavo.v1/reason";
using Code = absl::StatusCode;

constexpr std::array kReasons = {
    ReasonInfo{Reason::kInternal, "INTERNAL", Code::kInternal, 500, 70, false, "a bug in Octavo"},
    ReasonInfo{Reason::kUsage, "USAGE", Code::kInvalidArgument, 400, 64, false,
               "flags or arguments are wrong"},
    ReasonInfo{Reason::kBadRequest, "BAD_REQUEST", Code::kInvalidArgument, 400, 64, false,
               "a field of the request is wrong"},
    ReasonInfo{Reason::kBadCheckpoint, "BAD_CHECKPOINT", Code::kInvalidArgument, 422, 65, false,
               "a checkpoint file is malformed"},
    ReasonInfo{Reason::kBadRecipe, "BAD_RECIPE", Code::kInvalidArgument, 422, 65, false,
               "a recipe is malformed or illegal"},
    ReasonInfo{Reason::kBadData, "BAD_DATA", Code::kInvalidArgument, 422, 65, false,
               "text or samples given to work on are wrong"},
    ReasonInfo{Reason::kUnsupported, "UNSUPPORTED", Code::kUnimplemented, 501, 65, false,
               "well formed, but not handled by this version"},
    ReasonInfo{Reason::kNonFinite, "NON_FINITE", Code::kDataLoss, 500, 65, false,
               "a NaN or an infinity where a number must be"},
    ReasonInfo{Reason::kInputMissing, "INPUT_MISSING", Code::kNotFound, 404, 66, false,
               "a source file or folder does not exist"},
    ReasonInfo{Reason::kSourceChanged, "SOURCE_CHANGED", Code::kFailedPrecondition, 409, 65, false,
               "the source is not what the job was planned from"},
    ReasonInfo{Reason::kOutputExists, "OUTPUT_EXISTS", Code::kAlreadyExists, 409, 65, false,
               "the output exists and was made from something else"},
    ReasonInfo{Reason::kPermission, "PERMISSION", Code::kPermissionDenied, 403, 77, false,
               "no permission for a file or folder"},
    ReasonInfo{Reason::kOutputUnwritable, "OUTPUT_UNWRITABLE", Code::kPermissionDenied, 403, 77,
               false, "the output cannot be written there"},
    ReasonInfo{Reason::kDiskFull, "DISK_FULL", Code::kResourceExhausted, 507, 75, true,
               "no space left"},
    ReasonInfo{Reason::kIo, "IO", Code::kUnavailable, 500, 75, true, "a read or a write failed"},
    ReasonInfo{Reason::kCorrupted, "CORRUPTED", Code::kDataLoss, 500, 65, false,
               "bytes read back differ from the bytes written"},
    ReasonInfo{Reason::kBusy, "BUSY", Code::kAborted, 409, 75, true,
               "another run of the same job is going on"},
    ReasonInfo{Reason::kCancelled, "CANCELLED", Code::kCancelled, 499, 75, true,
               "cancelled by the user"},
    ReasonInfo{Reason::kDeadline, "DEADLINE", Code::kDeadlineExceeded, 504, 75, true,
               "the deadline passed"},
    ReasonInfo{Reason::kQueueFull, "QUEUE_FULL", Code::kResourceExhausted, 429, 75, true,
               "the queue is full"},
    ReasonInfo{Reason::kOutOfMemory, "OUT_OF_MEMORY", Code::kResourceExhausted, 507, 78, false,
               "it does not fit the declared memory"},
    ReasonInfo{Reason::kNotFound, "NOT_FOUND", Code::kNotFound, 404, 66, false,
               "no such model, job or worker"},
    ReasonInfo{Reason::kUnreachable, "UNREACHABLE", Code::kUnavailable, 503, 69, true,
               "the coordinator or a worker does not answer"},
    ReasonInfo{Reason::kNotReady, "NOT_READY", Code::kUnavailable, 503, 75, true,
               "no model is loaded, too few workers are there, or the leader was just lost"},
    ReasonInfo{Reason::kGroupLost, "GROUP_LOST", Code::kUnavailable, 503, 75, true,
               "a rank of the serving group died (streams go on with the next group; this is where "
               "none came, and for scores)"},
    ReasonInfo{Reason::kFenced, "FENCED", Code::kAborted, 409, 75, false, "a stale epoch or lease"},
    ReasonInfo{Reason::kStateMismatch, "STATE_MISMATCH", Code::kDataLoss, 500, 70, false,
               "the ranks of a group disagree"},
    ReasonInfo{Reason::kUnauthenticated, "UNAUTHENTICATED", Code::kUnauthenticated, 401, 77, false,
               "wrong or missing token"},
    ReasonInfo{Reason::kHardware, "HARDWARE", Code::kFailedPrecondition, 501, 78, false,
               "this machine lacks what is needed"},
};

}  // namespace

std::span<const ReasonInfo> AllReasons() { return kReasons; }

const ReasonInfo& InfoOf(Reason reason) { return kReasons[static_cast<size_t>(reason)]; }

std::optional<Reason> ReasonFromName(std::string_view name) {
  for (const ReasonInfo& info : kReasons) {
    if (info.name == name) return info.reason;
  }
  return std::nullopt;
}

absl::Status MakeError(Reason reason, std::string_view what, const ErrorSite& where,
                       std::string_view cure) {
  std::string message(what);
  std::string_view separator = ": ";
  auto add = [&](std::string part) {
    message += separator;
    message += part;
    separator = ", ";
  };
  if (!where.file.empty()) add(fmt::format("file {}", where.file));
  if (!where.tensor.empty()) add(fmt::format("tensor {}", where.tensor));
  if (where.offset) add(fmt::format("byte offset {}", *where.offset));
  if (!cure.empty()) message += fmt::format(". {}", cure);
  absl::Status status(InfoOf(reason).code, message);
  status.SetPayload(kPayloadUrl, absl::Cord(std::string(InfoOf(reason).name)));
  return status;
}

absl::Status ErrnoError(std::string_view action, int error, const ErrorSite& where) {
  Reason reason = Reason::kIo;
  std::string_view cure = "";
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    reason = Reason::kDiskFull;
    cure = "Free space and run the same command again; it resumes";
  } else if (error == ENOENT || error == ENOTDIR) {
    reason = Reason::kInputMissing;
    cure = "Check the path";
  } else if (error == EACCES || error == EPERM) {
    reason = Reason::kPermission;
    cure = "Check owner and permissions";
  } else if (error == EROFS) {
    reason = Reason::kOutputUnwritable;
    cure = "Choose a place that is not mounted read-only";
  }
  return MakeError(reason, fmt::format("{} ({})", action, std::strerror(error)), where, cure);
}

Reason ReasonOf(const absl::Status& status) {
  OCTAVO_CHECK(!status.ok());
  if (auto payload = status.GetPayload(kPayloadUrl)) {
    if (auto reason = ReasonFromName(std::string(*payload))) return *reason;
  }
  switch (status.code()) {
    case Code::kCancelled:
      return Reason::kCancelled;
    case Code::kDeadlineExceeded:
      return Reason::kDeadline;
    case Code::kUnavailable:
      return Reason::kUnreachable;
    case Code::kUnauthenticated:
      return Reason::kUnauthenticated;
    case Code::kNotFound:
      return Reason::kNotFound;
    case Code::kInvalidArgument:
      return Reason::kBadRequest;
    case Code::kResourceExhausted:
      return Reason::kQueueFull;
    case Code::kUnimplemented:
      return Reason::kUnsupported;
    default:
      return Reason::kInternal;
  }
}

int ExitCodeOf(const absl::Status& status) {
  return status.ok() ? 0 : InfoOf(ReasonOf(status)).exit_code;
}

absl::Status WithContext(const absl::Status& status, std::string_view context) {
  if (status.ok()) return status;
  absl::Status out(status.code(), fmt::format("{}: {}", context, std::string(status.message())));
  status.ForEachPayload([&](auto url, const absl::Cord& value) { out.SetPayload(url, value); });
  return out;
}

namespace internal {
void CheckFailed(const char* file, int line, const char* condition) {
  fmt::print(stderr, "{}:{}: check failed: {}\n", file, line, condition);
  std::fflush(stderr);
  std::abort();
}
}  // namespace internal

}  // namespace octavo
