#include "worker/stage/source_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

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

// Whether at least half of a range lies in the page cache. Of a file that the user may not write,
// the kernel tells nothing, and says yes.
bool MostlyCached(int fd, uint64_t offset, uint64_t size) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const uint64_t begin = offset / page * page;
  const uint64_t length = offset + size - begin;
  void* const at = mmap(nullptr, length, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(begin));
  if (at == MAP_FAILED) return true;
  std::vector<unsigned char> pages((length + page - 1) / page);
  const bool known = mincore(at, length, pages.data()) == 0;
  munmap(at, length);
  const auto there = std::count_if(pages.begin(), pages.end(),
                                   [](unsigned char state) { return (state & 1) != 0; });
  return !known || 2 * static_cast<size_t>(there) >= pages.size();
}

// Turns reading past the page cache on or off; false if the file system has no such reads.
bool SetDirect(int fd, bool on) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

// Reads whole blocks into `room` until all before `wanted` is there; false if that cannot be.
bool ReadBlocks(int fd, uint64_t begin, uint64_t end, uint64_t wanted, std::span<std::byte> room) {
  uint64_t at = begin;
  while (at < wanted) {
    const ssize_t n = pread(fd, room.data() + (at - begin), end - at, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += static_cast<uint64_t>(n);
    // Only the end of the file leaves a block half read.
    if (at % SourceFiles::kBlock != 0 && at < wanted) return false;
  }
  return true;
}

}  // namespace

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
    Source source;
    source.file = std::make_unique<OpenFile>(fd, path);
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

void SourceFiles::Expect(const std::string& name, uint64_t offset, uint64_t size, bool again) {
  Source& source = files_.at(name);
  source.cached = source.cached || again || MostlyCached(source.file->fd(), offset, size);
  if (source.direct != !source.cached) {
    source.direct = SetDirect(source.file->fd(), !source.cached) && !source.cached;
  }
  if (!source.direct) source.file->ReadAhead(offset, size);
}

absl::StatusOr<std::span<std::byte>> SourceFiles::Read(const std::string& name, uint64_t offset,
                                                       uint64_t size, std::span<std::byte> room) {
  Source& source = files_.at(name);
  if (source.direct) {
    const uint64_t begin = offset / kBlock * kBlock;
    const uint64_t end = (offset + size + kBlock - 1) / kBlock * kBlock;
    if (ReadBlocks(source.file->fd(), begin, end, offset + size, room)) {
      return room.subspan(offset - begin, size);
    }
    // Reading through the cache finds the same fault and names it, or there is none.
    SetDirect(source.file->fd(), false);
    source.direct = false;
  }
  OCTAVO_RETURN_IF_ERROR(source.file->ReadAt(offset, room.first(size)));
  return room.first(size);
}

}  // namespace octavo
