#pragma once

// What this process told as a leader rank, by request: kept beyond the end of a stream and of a
// group, so that a stream whose gateway died can be taken up by another one. Bounded in requests
// and bytes; the request that was not touched for longest leaves first, and one that alone is too
// large is not kept.

#include <cstdint>
#include <list>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>

#include "absl/status/statusor.h"
#include "core/base/limits.h"
#include "core/base/mutex.h"
#include "octavo/v1/engine.pb.h"
#include "octavo/v1/token_log.pb.h"

namespace octavo {

// Thread-safe.
class TokenLog {
 public:
  struct Limits {
    size_t requests = kTokenLogRequests;
    size_t bytes = kTokenLogBytes;
    size_t request_bytes = kTokenLogRequestBytes;
  };
  // Who writes an answer.
  struct Ticket {
    std::string request_id;
    uint64_t entry = 0;
    uint32_t choice = 0;
    uint64_t writer = 0;
  };

  explicit TokenLog(const Limits& limits) : limits_(limits) {}

  // From now on the caller writes this answer, beginning with `request.told`. Whoever wrote it
  // before is told so (Holds). Another note is another request: it replaces all of the earlier one.
  // REQUIRES a note.
  Ticket Begin(const v1::EngineRequest& request);

  // Adds what `event` says of the answer: its tokens, and its end where it ended by itself (a
  // deadline or a cancellation is no end: the answer can go on). Nothing where it is not kept any
  // more.
  void Append(const Ticket& ticket, const v1::EngineEvent& event);

  // False when a later Begin took the answer over.
  bool Holds(const Ticket& ticket) const;

  // kNotFound.
  absl::StatusOr<v1::LoggedRequest> Get(const std::string& request_id);

  size_t requests() const;
  size_t bytes() const;

 private:
  struct Answer {
    std::string told;
    uint64_t writer = 0;
  };
  struct Entry {
    uint64_t number = 0;
    std::string request_id;
    std::string note;
    std::map<uint32_t, Answer> answers = {};
    size_t bytes = 0;
  };
  using Entries = std::list<Entry>;

  // REQUIRES mutex_ held, all of them.
  Entries::iterator Find(const std::string& request_id) const;
  void Touch(Entries::iterator entry);
  void Charge(Entries::iterator entry, size_t bytes);
  void Drop(Entries::iterator entry);
  // Drops what is too much, `latest` itself where it is too large.
  void Bound(Entries::iterator latest);

  const Limits limits_;
  mutable Mutex mutex_;
  uint64_t last_number_ OCTAVO_GUARDED_BY(mutex_) = 0;
  size_t bytes_ OCTAVO_GUARDED_BY(mutex_) = 0;
  mutable Entries entries_ OCTAVO_GUARDED_BY(mutex_);  // the last touched first
  std::unordered_map<std::string_view, Entries::iterator> by_id_ OCTAVO_GUARDED_BY(mutex_);
};

}  // namespace octavo
