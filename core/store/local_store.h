#pragma once

// The Store over a POSIX file system. Publishing uses renameat2; where a file system lacks its
// flags, a plain rename (callers hold the job's lock, so nobody races for the name).

#include <memory>
#include <string>

#include "core/store/store.h"

namespace octavo {

class LocalStore final : public Store {
 public:
  absl::StatusOr<FileFacts> Stat(const std::string& path) const override;
  absl::Status ReadAt(const std::string& path, uint64_t offset,
                      std::span<std::byte> out) const override;
  absl::StatusOr<std::vector<DirEntry>> List(const std::string& dir) const override;
  bool Exists(const std::string& path) const override;
  absl::Status CreateDirectories(const std::string& dir) override;
  absl::Status CreateFile(const std::string& path, uint64_t size, bool keep_existing) override;
  absl::Status WriteAt(const std::string& path, uint64_t offset,
                       std::span<const std::byte> bytes) override;
  absl::Status Sync(const std::string& path) override;
  absl::Status Publish(const std::string& staged, const std::string& final_path,
                       PublishMode mode) override;
  absl::Status RemoveTree(const std::string& path) override;
  absl::StatusOr<uint64_t> FreeBytes(const std::string& path) const override;
};

}  // namespace octavo
