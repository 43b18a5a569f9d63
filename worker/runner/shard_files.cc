#include "worker/runner/shard_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "core/base/error.h"
#include "core/base/status.h"

namespace octavo {

ShardFiles::~ShardFiles() {
  for (const auto& [name, descriptor] : open_) close(descriptor);
}

absl::StatusOr<int> ShardFiles::Open(const std::string& file) {
  const MutexLock lock(mutex_);
  const auto found = open_.find(file);
  if (found != open_.end()) return found->second;
  const std::string path = dir_ + "/" + file;
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return ErrnoError("cannot open", errno, {.file = path});
  open_.emplace(file, descriptor);
  return descriptor;
}

absl::Status ShardFiles::Read(const std::string& file, uint64_t offset, std::span<std::byte> out,
                              std::string_view tensor) {
  OCTAVO_ASSIGN_OR_RETURN(const int descriptor, Open(file));
  while (!out.empty()) {
    const ssize_t got = pread(descriptor, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    const ErrorSite site = {.file = file, .tensor = tensor, .offset = offset};
    if (got < 0) return ErrnoError("cannot read", errno, site);
    if (got == 0) {
      return MakeError(Reason::kBadCheckpoint, "the file ends inside a tensor", site,
                       "copy the checkpoint again");
    }
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

void ShardFiles::WillRead(const std::string& file, uint64_t begin, uint64_t end) {
  const absl::StatusOr<int> descriptor = Open(file);
  if (!descriptor.ok()) return;  // Read will say so
  posix_fadvise(*descriptor, static_cast<off_t>(begin), static_cast<off_t>(end - begin),
                POSIX_FADV_WILLNEED);
}

}  // namespace octavo
