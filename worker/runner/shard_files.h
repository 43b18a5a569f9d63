#pragma once

// Ranged reads of a checkpoint folder's tensor files: only the bytes asked for are read.

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/mutex.h"

namespace octavo {

class ShardFiles {
 public:
  explicit ShardFiles(std::string dir) : dir_(std::move(dir)) {}
  ~ShardFiles();
  ShardFiles(const ShardFiles&) = delete;
  ShardFiles& operator=(const ShardFiles&) = delete;

  // Fills `out` from byte `offset` of `file`. Thread-safe. kInputMissing, kIo; kBadCheckpoint where
  // the file ends early; `tensor` is for the message.
  absl::Status Read(const std::string& file, uint64_t offset, std::span<std::byte> out,
                    std::string_view tensor);

  // Says that bytes [begin, end) of `file` will be read soon: the kernel may fetch them meanwhile.
  void WillRead(const std::string& file, uint64_t begin, uint64_t end);

 private:
  absl::StatusOr<int> Open(const std::string& file);

  std::string dir_;
  Mutex mutex_;
  std::map<std::string, int> open_ OCTAVO_GUARDED_BY(mutex_);
};

}  // namespace octavo
