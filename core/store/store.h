#pragma once

// Files as named immutable blobs: ranged reads, staged writes, atomic publishing. The Store is a
// seam: LocalStore in production, MemoryStore and FaultyStore in tests.
//
// Reading follows symbolic links (Hugging Face cache folders link into blobs) but accepts regular
// files only: a FIFO, a device or a folder where a file must be is kUnsupported, and is refused
// without blocking on it. Nothing here is buffered: a call is a system call or a few. All methods
// may be called from several threads; two writers of one range is the caller's bug.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace octavo {

struct FileFacts {
  uint64_t size = 0;
  int64_t mtime_ns = 0;  // of the file itself, links followed; 0 where the store has no times
};

struct DirEntry {
  std::string name;
  bool regular = false;    // a regular file, or a link to one
  bool directory = false;  // a folder, or a link to one
  uint64_t size = 0;       // of a regular file
};

enum class PublishMode {
  kNoReplace,  // the final name must not exist: kOutputExists
  kExchange,   // the final name may exist; what it held is removed after the exchange
};

class Store {
 public:
  virtual ~Store() = default;

  // ---- Reading. kInputMissing where the path is not there, kUnsupported where it is not a regular
  // file.
  virtual absl::StatusOr<FileFacts> Stat(const std::string& path) const = 0;
  // Fills all of `out` from `offset`; a file that ends before is kIo naming the offset at which it
  // ended.
  virtual absl::Status ReadAt(const std::string& path, uint64_t offset,
                              std::span<std::byte> out) const = 0;
  // Entries of a folder, sorted by name, without "." and "..". A dangling link is neither regular
  // nor directory.
  virtual absl::StatusOr<std::vector<DirEntry>> List(const std::string& dir) const = 0;
  virtual bool Exists(const std::string& path) const = 0;

  // ---- Writing. kOutputUnwritable, kDiskFull or kIo.
  // Makes the folder and its parents; an existing folder is fine.
  virtual absl::Status CreateDirectories(const std::string& dir) = 0;
  // A new file of `size` bytes, zero where nothing is written. With `keep_existing` a regular file
  // of exactly that size is kept with its bytes (a job resumes in its staging folder); otherwise an
  // existing file is replaced.
  virtual absl::Status CreateFile(const std::string& path, uint64_t size, bool keep_existing) = 0;
  // The file must exist; it never grows: writing past its end is kInternal.
  virtual absl::Status WriteAt(const std::string& path, uint64_t offset,
                               std::span<const std::byte> bytes) = 0;
  // After this the bytes of the file (or the names in the folder) survive a power cut.
  virtual absl::Status Sync(const std::string& path) = 0;
  // Renames a staged file or folder to its final name in one step and syncs the parent folder. With
  // kExchange the old content is removed before returning.
  virtual absl::Status Publish(const std::string& staged, const std::string& final_path,
                               PublishMode mode) = 0;
  // Removes a file or a folder with all it holds, never following links; a missing path is fine.
  virtual absl::Status RemoveTree(const std::string& path) = 0;
  // Bytes an ordinary user may still write where `path` (or its nearest existing parent) lies.
  virtual absl::StatusOr<uint64_t> FreeBytes(const std::string& path) const = 0;
};

// The whole file; one larger than `bytes_max` is kBadCheckpoint.
absl::StatusOr<std::string> ReadWhole(const Store& store, const std::string& path,
                                      uint64_t bytes_max);

// Creates (or replaces) a file holding `bytes`. Not atomic, not synced: for staged folders.
absl::Status WriteWhole(Store& store, const std::string& path, std::string_view bytes);

// "dir/name", with one separator.
std::string JoinPath(std::string_view dir, std::string_view name);

// True for a name that stays inside its folder: not empty, no '/', no NUL, neither "." nor "..", at
// most 255 bytes.
bool IsPlainFileName(std::string_view name);

}  // namespace octavo
