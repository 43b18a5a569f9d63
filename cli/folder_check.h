#pragma once

// Compares a published folder with the manifest inside it.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace octavo {

struct FolderCheck {
  bool manifest = false;  // false: the folder has none, and nothing was compared
  uint64_t files = 0;
  uint64_t bytes = 0;
};

// kCorrupted names the file and the byte range whose digest differs; kInputMissing a file that is
// gone; kBadCheckpoint a malformed manifest. `digests` false: names and sizes only.
absl::StatusOr<FolderCheck> CheckFolder(const std::string& dir, bool digests);

}  // namespace octavo
