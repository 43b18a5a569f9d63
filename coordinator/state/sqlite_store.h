#pragma once

// The StateStore in DIR/journal.db: SQLite with a write-ahead log and synchronous FULL, under an
// exclusive flock on DIR/lock for as long as it is open. Thread-safe.

#include <memory>
#include <string>

#include "coordinator/state/state_store.h"

namespace octavo {

class SqliteStore final : public StateStore {
 public:
  // Makes the folder if need be. kBusy if another process holds it open; kCorrupted if the file is
  // no journal of ours; kOutputUnwritable, kDiskFull, kIo.
  static absl::StatusOr<std::unique_ptr<SqliteStore>> Open(const std::string& dir);
  ~SqliteStore() override;

  absl::Status Apply(std::span<const Write> writes) override;
  absl::StatusOr<std::optional<std::string>> Get(const std::string& key) override;
  absl::StatusOr<std::vector<Entry>> Scan(const std::string& prefix) override;

 private:
  SqliteStore();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace octavo
