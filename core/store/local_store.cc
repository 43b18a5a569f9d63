#include "core/store/local_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/base/error.h"
#include "core/base/status.h"
#include "fmt/format.h"

namespace octavo {
namespace {

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

absl::Status NotAFile(const std::string& path) {
  return MakeError(Reason::kUnsupported, "not a regular file", {.file = path},
                   "Only regular files and links to them are read");
}

absl::StatusOr<Fd> OpenRegular(const std::string& path, int flags, std::string_view action) {
  // O_NONBLOCK: opening a FIFO that nobody writes to must not hang.
  Fd fd(::open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (fd.get() < 0) {
    if (errno == ENXIO || errno == EISDIR) return NotAFile(path);
    return ErrnoError(action, errno, {.file = path});
  }
  struct stat facts;
  if (::fstat(fd.get(), &facts) != 0) return ErrnoError("cannot stat", errno, {.file = path});
  if (!S_ISREG(facts.st_mode)) return NotAFile(path);
  return fd;
}

std::string ParentOf(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

absl::Status SyncFolder(const std::string& dir) {
  Fd fd(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) return ErrnoError("cannot open", errno, {.file = dir});
  if (::fsync(fd.get()) != 0) return ErrnoError("cannot sync", errno, {.file = dir});
  return absl::OkStatus();
}

bool FlagsNotKnown(int error) { return error == EINVAL || error == ENOSYS || error == ENOTSUP; }

}  // namespace

absl::StatusOr<FileFacts> LocalStore::Stat(const std::string& path) const {
  struct stat facts;
  if (::stat(path.c_str(), &facts) != 0) return ErrnoError("cannot read", errno, {.file = path});
  if (!S_ISREG(facts.st_mode)) return NotAFile(path);
  return FileFacts{
      .size = static_cast<uint64_t>(facts.st_size),
      .mtime_ns = facts.st_mtim.tv_sec * int64_t{1'000'000'000} + facts.st_mtim.tv_nsec};
}

absl::Status LocalStore::ReadAt(const std::string& path, uint64_t offset,
                                std::span<std::byte> out) const {
  OCTAVO_ASSIGN_OR_RETURN(const Fd fd, OpenRegular(path, O_RDONLY, "cannot read"));
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n =
        ::pread(fd.get(), out.data() + done, out.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      return ErrnoError("cannot read", errno, {.file = path, .offset = offset + done});
    }
    if (n == 0) {
      return MakeError(
          Reason::kIo,
          fmt::format("file ends {} bytes before the end of a read", out.size() - done),
          {.file = path, .offset = offset + done}, "Was it truncated while in use?");
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<DirEntry>> LocalStore::List(const std::string& dir) const {
  DIR* handle = ::opendir(dir.c_str());
  if (handle == nullptr) return ErrnoError("cannot list", errno, {.file = dir});
  std::vector<DirEntry> entries;
  errno = 0;
  while (const dirent* item = ::readdir(handle)) {
    const std::string_view name = item->d_name;
    if (name == "." || name == "..") continue;
    DirEntry entry{.name = std::string(name)};
    struct stat facts;
    if (::fstatat(::dirfd(handle), item->d_name, &facts, 0) == 0) {
      entry.regular = S_ISREG(facts.st_mode);
      entry.directory = S_ISDIR(facts.st_mode);
      entry.size = entry.regular ? static_cast<uint64_t>(facts.st_size) : 0;
    }
    entries.push_back(std::move(entry));
    errno = 0;
  }
  const int error = errno;
  ::closedir(handle);
  if (error != 0) return ErrnoError("cannot list", error, {.file = dir});
  std::sort(entries.begin(), entries.end(),
            [](const DirEntry& a, const DirEntry& b) { return a.name < b.name; });
  return entries;
}

bool LocalStore::Exists(const std::string& path) const {
  struct stat facts;
  return ::lstat(path.c_str(), &facts) == 0;
}

absl::Status LocalStore::CreateDirectories(const std::string& dir) {
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  if (error) return ErrnoError("cannot create", error.value(), {.file = dir});
  return absl::OkStatus();
}

absl::Status LocalStore::CreateFile(const std::string& path, uint64_t size, bool keep_existing) {
  if (keep_existing) {
    struct stat facts;
    if (::lstat(path.c_str(), &facts) == 0 && S_ISREG(facts.st_mode) &&
        static_cast<uint64_t>(facts.st_size) == size) {
      return absl::OkStatus();
    }
  }
  // Unlinked first: writing through an old link would change somebody else's file.
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoError("cannot replace", errno, {.file = path});
  }
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (fd.get() < 0) return ErrnoError("cannot create", errno, {.file = path});
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return ErrnoError(fmt::format("cannot make {} bytes long", size), errno, {.file = path});
  }
  return absl::OkStatus();
}

absl::Status LocalStore::WriteAt(const std::string& path, uint64_t offset,
                                 std::span<const std::byte> bytes) {
  OCTAVO_ASSIGN_OR_RETURN(const Fd fd, OpenRegular(path, O_WRONLY, "cannot write"));
  struct stat facts;
  if (::fstat(fd.get(), &facts) != 0) return ErrnoError("cannot stat", errno, {.file = path});
  const uint64_t size = static_cast<uint64_t>(facts.st_size);
  if (offset > size || bytes.size() > size - offset) {
    return MakeError(Reason::kInternal,
                     fmt::format("write of {} bytes leaves the file's {}", bytes.size(), size),
                     {.file = path, .offset = offset});
  }
  size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::pwrite(fd.get(), bytes.data() + done, bytes.size() - done,
                               static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return ErrnoError("cannot write", n < 0 ? errno : EIO,
                        {.file = path, .offset = offset + done});
    }
    done += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::Status LocalStore::Sync(const std::string& path) {
  struct stat facts;
  if (::stat(path.c_str(), &facts) != 0) return ErrnoError("cannot sync", errno, {.file = path});
  if (S_ISDIR(facts.st_mode)) return SyncFolder(path);
  OCTAVO_ASSIGN_OR_RETURN(const Fd fd, OpenRegular(path, O_WRONLY, "cannot sync"));
  if (::fdatasync(fd.get()) != 0) return ErrnoError("cannot sync", errno, {.file = path});
  return absl::OkStatus();
}

absl::Status LocalStore::Publish(const std::string& staged, const std::string& final_path,
                                 PublishMode mode) {
  const bool exchange = mode == PublishMode::kExchange && Exists(final_path);
  const unsigned flags = exchange ? RENAME_EXCHANGE : RENAME_NOREPLACE;
  if (::renameat2(AT_FDCWD, staged.c_str(), AT_FDCWD, final_path.c_str(), flags) != 0) {
    const int error = errno;
    if (!FlagsNotKnown(error) && error != EEXIST && error != ENOTEMPTY) {
      return ErrnoError("cannot publish", error, {.file = final_path});
    }
    if (!FlagsNotKnown(error) || (!exchange && Exists(final_path))) {
      return MakeError(Reason::kOutputExists, "the output exists already", {.file = final_path},
                       "Choose another name, or ask for it to be replaced");
    }
    if (exchange) OCTAVO_RETURN_IF_ERROR(RemoveTree(final_path));
    if (::rename(staged.c_str(), final_path.c_str()) != 0) {
      return ErrnoError("cannot publish", errno, {.file = final_path});
    }
  } else if (exchange) {
    // The old content now bears the staged name.
    OCTAVO_RETURN_IF_ERROR(SyncFolder(ParentOf(final_path)));
    OCTAVO_RETURN_IF_ERROR(RemoveTree(staged));
  }
  return SyncFolder(ParentOf(final_path));
}

absl::Status LocalStore::RemoveTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return ErrnoError("cannot remove", error.value(), {.file = path});
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> LocalStore::FreeBytes(const std::string& path) const {
  std::error_code error;
  std::filesystem::path at = std::filesystem::absolute(path, error);
  struct statvfs facts;
  while (::statvfs(at.c_str(), &facts) != 0) {
    if (errno != ENOENT || at == at.parent_path()) {
      return ErrnoError("cannot ask for free space", errno, {.file = path});
    }
    at = at.parent_path();
  }
  return uint64_t{facts.f_bavail} * facts.f_frsize;
}

}  // namespace octavo
