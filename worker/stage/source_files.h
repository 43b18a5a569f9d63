#pragma once

// The source files of one task, whose identity was checked. What is read once and does not lie in
// the page cache yet is read past it (O_DIRECT): the copy through the cache costs more than the
// cast. Where that cannot be (a file system without it, a source that another user owns), the cache
// is used and the kernel asked to read ahead.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "octavo/v1/task.pb.h"
#include "worker/stage/unit_files.h"

namespace octavo {

class SourceFiles {
 public:
  // Where direct reads begin and end, in the file and in memory: a multiple of every device's
  // block.
  static constexpr uint64_t kBlock = 4096;
  // Bytes of room that Read needs for `size`.
  static constexpr uint64_t RoomFor(uint64_t size) { return size + 2 * kBlock; }

  // Opens what the task's pieces read and compares size and mtime with task.sources.
  // kInputMissing, kSourceChanged.
  static absl::StatusOr<SourceFiles> Open(const v1::Task& task);

  // Says that a range will be read, and whether more than once. Before the first Read; cheap, never
  // fails.
  void Expect(const std::string& name, uint64_t offset, uint64_t size, bool again);

  // `size` bytes from `offset`, somewhere inside `room` (RoomFor(size) bytes, aligned to kBlock).
  // A file that ends before is kSourceChanged; kIo.
  absl::StatusOr<std::span<std::byte>> Read(const std::string& name, uint64_t offset, uint64_t size,
                                            std::span<std::byte> room);

  // The comparison of Open again, after reading.
  absl::Status CheckUnchanged() const;

 private:
  struct Source {
    std::unique_ptr<OpenFile> file;
    v1::SourceFile facts;
    bool cached = false;  // a range lies in the page cache, or is wanted there
    bool direct = false;  // the descriptor reads past the page cache
  };
  std::map<std::string, Source> files_;
};

}  // namespace octavo
