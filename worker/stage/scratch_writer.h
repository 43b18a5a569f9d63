#pragma once

// Writes one file into a job's scratch folder. It appears by a rename, so that it is whole whenever
// it is there; what makes it durable, if anything (IsSynced), is CalibrateStage::SyncTouched.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/checksum.h"
#include "core/store/local_store.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

class ScratchWriter {
 public:
  // kDiskFull, kIo.
  static absl::StatusOr<ScratchWriter> Create(const std::string& dir, const std::string& name,
                                              uint64_t size);
  ScratchWriter(ScratchWriter&& other) noexcept;
  ScratchWriter& operator=(ScratchWriter&&) = delete;
  ~ScratchWriter();  // an unfinished file goes away

  absl::Status Append(std::span<const std::byte> bytes);
  // Gives the file its name and adds it to the receipt. REQUIRES: `size` bytes were appended.
  absl::Status Finish(v1::Receipt* receipt);

 private:
  ScratchWriter() = default;

  LocalStore store_;
  std::string name_;
  std::string path_;
  std::string staged_;  // empty: nothing to remove
  uint64_t size_ = 0;
  uint64_t at_ = 0;
  DigestStream digest_;
};

// A whole file at once.
absl::Status LeaveScratchFile(const std::string& dir, const std::string& name,
                              std::span<const std::byte> bytes, v1::Receipt* receipt);

}  // namespace octavo
