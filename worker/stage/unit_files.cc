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

absl::Status Changed(const std::string& path, std::string_view what) {
  return MakeError(Reason::kSourceChanged, what, {.file = path},
                   "Start the job again on a source that stays as it is");
}

absl::Status Compare(const OpenFile& file, const v1::SourceFile& facts) {
  struct stat now;
  if (fstat(file.fd(), &now) != 0) return ErrnoError("cannot stat", errno, {.file = file.path()});
  if (static_cast<uint64_t>(now.st_size) != facts.size()) {
    return Changed(file.path(), fmt::format("the file has {} bytes, the job was planned with {}",
                                            now.st_size, facts.size()));
  }
  const int64_t mtime = now.st_mtim.tv_sec * int64_t{1'000'000'000} + now.st_mtim.tv_nsec;
  if (facts.mtime_ns() != 0 && mtime != facts.mtime_ns()) {
    return Changed(file.path(), "the file was modified after the job was planned");
  }
  return absl::OkStatus();
}

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

absl::StatusOr<SourceFiles> SourceFiles::Open(const v1::Task& task) {
  SourceFiles result;
  for (const v1::Piece& piece : task.unit().pieces()) {
    const std::string& name = piece.source().file();
    if (result.files_.contains(name)) continue;
    if (!IsPlainFileName(name)) {
      return MakeError(Reason::kInternal, "a task names a file outside its folder", {.file = name});
    }
    const std::string path = JoinPath(task.source_dir(), name);
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return ErrnoError("cannot open the source", errno, {.file = path});
    Source source{std::make_unique<OpenFile>(fd, path), {}};
    bool known = false;
    for (const v1::SourceFile& facts : task.sources()) {
      if (facts.name() != name) continue;
      source.facts = facts;
      known = true;
    }
    if (!known) {
      return MakeError(Reason::kInternal, "the task lacks the file's identity", {.file = path});
    }
    OCTAVO_RETURN_IF_ERROR(Compare(*source.file, source.facts));
    result.files_.emplace(name, std::move(source));
  }
  return result;
}

absl::Status SourceFiles::CheckUnchanged() const {
  for (const auto& [name, source] : files_) {
    OCTAVO_RETURN_IF_ERROR(Compare(*source.file, source.facts));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::map<uint32_t, SharedFile>> OpenOutputs(const v1::Task& task) {
  std::vector<const v1::FileRange*> ranges;
  for (const v1::Piece& piece : task.unit().pieces()) {
    ranges.push_back(&piece.weight_out());
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
