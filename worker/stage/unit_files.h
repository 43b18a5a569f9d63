#pragma once

// An open file, and the outputs of one task that lie ready in the staging folder. Every error names
// the file and the byte offset. (The task's sources: worker/stage/source_files.h.)

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

// An open file descriptor.
class OpenFile {
 public:
  OpenFile(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }

  // Fills `out` from `offset`. A file that ends before is kSourceChanged.
  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const;
  // kDiskFull, kIo.
  absl::Status WriteAt(uint64_t offset, std::span<const std::byte> bytes) const;
  // Asks the kernel to read ahead, or to start writing back; returns at once, never fails.
  void ReadAhead(uint64_t offset, uint64_t size) const;
  void StartWriteBack(uint64_t offset, uint64_t size) const;
  absl::Status Sync() const;

 private:
  const int fd_;
  const std::string path_;
};

// Shared: a Run writes to it while a SyncTouched of another thread may hold it.
using SharedFile = std::shared_ptr<const OpenFile>;

// Output files of a task, by FileRange.file. kFenced if one is not there (its job ended), kInternal
// if a range of the unit does not fit into it.
absl::StatusOr<std::map<uint32_t, SharedFile>> OpenOutputs(const v1::Task& task);

}  // namespace octavo
