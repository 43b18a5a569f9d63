#pragma once

// Where the coordinator's truth lies: a flat, ordered map of keys to bytes. A seam: SqliteStore in
// production, a memory twin in tests.

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace octavo {

class StateStore {
 public:
  struct Write {
    std::string key;
    std::optional<std::string> value;  // nullopt deletes the key (absent is fine)
  };
  struct Entry {
    std::string key;
    std::string value;
  };
  virtual ~StateStore() = default;

  // All of them or none, in order; durable when it returns OK. kDiskFull or kIo otherwise.
  virtual absl::Status Apply(std::span<const Write> writes) = 0;
  virtual absl::StatusOr<std::optional<std::string>> Get(const std::string& key) = 0;
  // Keys that start with `prefix`, ascending.
  virtual absl::StatusOr<std::vector<Entry>> Scan(const std::string& prefix) = 0;
};

}  // namespace octavo
