#include "worker/stage/unit_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/base/error.h"
#include "core/base/status.h"
#include "core/store/store.h"
#include "fmt/format.h"

namespace octavo {
namespace {

absl::StatusOr<SharedFile> OpenOutput(const v1::Task& task, uint32_t index) {
  if (index >= static_cast<uint32_t>(task.output_names_size()) ||
      !IsPlainFileName(task.output_names(static_cast<int>(index)))) {
    return MakeError(Reason::kInternal, "a task names an output outside its folder");
  }
  const std::string path = JoinPath(task.staging_dir(), task.output_names(static_cast<int>(index)));
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0 && errno == ENOENT) {
    return MakeError(Reason::kFenced, "the staging file is gone: its job ended", {.file = path});
  }
  if (fd < 0) return ErrnoError("cannot open the staging file", errno, {.file = path});
  return std::make_shared<const OpenFile>(fd, path);
}

}  // namespace

OpenFile::~OpenFile() { close(fd_); }

absl::Status OpenFile::ReadAt(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t n = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoError("cannot read", errno, {.file = path_, .offset = offset});
    if (n == 0) {
      return MakeError(Reason::kSourceChanged, "the file ends too early",
                       {.file = path_, .offset = offset});
    }
    offset += static_cast<uint64_t>(n);
    out = out.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status OpenFile::WriteAt(uint64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return ErrnoError("cannot write", n < 0 ? errno : EIO, {.file = path_, .offset = offset});
    }
    offset += static_cast<uint64_t>(n);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

void OpenFile::ReadAhead(uint64_t offset, uint64_t size) const {
  posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(size), POSIX_FADV_WILLNEED);
}

void OpenFile::StartWriteBack(uint64_t offset, uint64_t size) const {
  sync_file_range(fd_, static_cast<off64_t>(offset), static_cast<off64_t>(size),
                  SYNC_FILE_RANGE_WRITE);
}

absl::Status OpenFile::Sync() const {
  if (fdatasync(fd_) == 0) return absl::OkStatus();
  return ErrnoError("cannot sync", errno, {.file = path_});
}

absl::StatusOr<std::map<uint32_t, SharedFile>> OpenOutputs(const v1::Task& task) {
  std::vector<const v1::FileRange*> ranges;
  for (const v1::Piece& piece : task.unit().pieces()) {
    ranges.push_back(&piece.weight_out());
    ranges.push_back(&piece.bitmask_out());
    ranges.push_back(&piece.scale_out());
  }
  for (const v1::StaticScale& scale : task.unit().scales()) ranges.push_back(&scale.out());
  std::map<uint32_t, SharedFile> files;
  for (const v1::FileRange* range : ranges) {
    if (range->end() == range->begin()) continue;
    SharedFile& file = files[range->file()];
    if (file == nullptr) {
      OCTAVO_ASSIGN_OR_RETURN(file, OpenOutput(task, range->file()));
    }
    struct stat facts;
    if (fstat(file->fd(), &facts) != 0) {
      return ErrnoError("cannot stat", errno, {.file = file->path()});
    }
    if (range->end() > static_cast<uint64_t>(facts.st_size)) {
      return MakeError(Reason::kInternal, "a task's range leaves its staging file",
                       {.file = file->path(), .offset = range->end()});
    }
  }
  return files;
}

}  // namespace octavo
