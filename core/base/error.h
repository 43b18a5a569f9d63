#pragma once

// Every failure has one Reason from a closed list. The reason decides the gRPC code, the HTTP code
// and the exit code; the message says what happened, where, and what to do about it. The table in
// error.cc is the only one: docs/interfaces.md has its rows line by line (tests/core/base), every
// row crosses a real connection (tests/core/rpc) and ends the real program (tests/cli).

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace octavo {

enum class Reason {
  kInternal,          // a bug of ours
  kUsage,             // flags or arguments
  kBadRequest,        // a field of a request
  kBadCheckpoint,     // malformed safetensors, index, config, GGUF, tokenizer
  kBadRecipe,         // malformed or illegal recipe
  kBadData,           // calibration samples or text that are wrong or not enough
  kUnsupported,       // well formed, but not something Octavo handles
  kNonFinite,         // NaN or Inf where a number must be
  kInputMissing,      // a source file or folder is not there
  kSourceChanged,     // the source is not what the job was planned from
  kOutputExists,      // the output exists and was made from something else
  kPermission,        // a file or folder that this user may not open
  kOutputUnwritable,  // read-only, mount point, inside the source
  kDiskFull,
  kIo,         // a read or write failed
  kCorrupted,  // bytes read back are not the bytes written; digest mismatch
  kBusy,       // another run of the same job is going on
  kCancelled,
  kDeadline,
  kQueueFull,
  kOutOfMemory,    // does not fit the declared budget
  kNotFound,       // unknown model, job, worker
  kUnreachable,    // coordinator or worker does not answer
  kNotReady,       // no model loaded, too few workers
  kGroupLost,      // a rank of the serving group died
  kFenced,         // a stale epoch or lease
  kStateMismatch,  // ranks disagree
  kUnauthenticated,
  kHardware,  // this machine lacks what is needed
};

struct ReasonInfo {
  Reason reason;
  std::string_view name;  // as in ErrorInfo.reason and Failure.reason: "BAD_CHECKPOINT"
  absl::StatusCode code;  // equal to the gRPC code
  int http_code;
  int exit_code;  // sysexits, docs: interfaces
  bool retryable;
  std::string_view doc;  // the line for people, as in docs/interfaces.md
};

// The whole table, in enum order.
std::span<const ReasonInfo> AllReasons();
const ReasonInfo& InfoOf(Reason reason);
std::optional<Reason> ReasonFromName(std::string_view name);

// Where it happened. Empty parts are left out of the message.
struct ErrorSite {
  std::string_view file = {};
  std::string_view tensor = {};
  std::optional<uint64_t> offset = std::nullopt;
};

// "what: file F, tensor T, byte offset N. cure" carrying `reason`.
absl::Status MakeError(Reason reason, std::string_view what, const ErrorSite& where = {},
                       std::string_view cure = {});

// MakeError from errno: chooses kDiskFull, kInputMissing, kPermission, kOutputUnwritable or kIo.
// `action` reads like "cannot write".
absl::Status ErrnoError(std::string_view action, int error, const ErrorSite& where);

// The reason a status carries; a bare status maps by its code (kInternal when nothing fits).
// REQUIRES !status.ok().
Reason ReasonOf(const absl::Status& status);

// Process exit code: 0 for OK.
int ExitCodeOf(const absl::Status& status);

// The same status with "context: " in front of its message.
absl::Status WithContext(const absl::Status& status, std::string_view context);

}  // namespace octavo
