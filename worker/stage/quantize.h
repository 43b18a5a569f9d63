#pragma once

// The data-free task: rows of source tensors in, codes and scales (or plain copies, or statistics)
// out. Rows are streamed in blocks of 128, so a task holds a few MiB, whatever its unit's size.
//
// A Run checks the identity of every source file it reads (size and mtime: kSourceChanged;
// vanished: kInputMissing), writes each range at the place the plan gave it, reads it back and
// compares the digest (kCorrupted). Start of write-back is asked for at once; SyncTouched then
// makes it durable. kDiskFull and kIo name file and offset; a NaN or infinity is kNonFinite with
// tensor and position.

#include <cstdint>
#include <memory>
#include <stop_token>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/isa.h"
#include "octavo/v1/task.pb.h"

namespace octavo {

class QuantizeStage {
 public:
  struct Options {
    uint64_t buffer_bytes = 64u << 20;  // bound over the buffers of all Runs at once
    Isa isa = Isa::kReference;
  };
  explicit QuantizeStage(const Options& options);
  ~QuantizeStage();

  // Does one task on the calling thread; several may run at once. Waits until its buffers fit the
  // budget (kOutOfMemory if they never can). The receipt is true of the page cache; send it only
  // after a SyncTouched that began after Run returned. Stops within one block of rows: kCancelled.
  absl::StatusOr<v1::Receipt> Run(const v1::Task& task, std::stop_token stop);

  // Asks the kernel to read ahead what `task` will need. Cheap, never fails.
  void Prefetch(const v1::Task& task);

  // fdatasync of every file that finished Runs wrote since the last call. On error the receipts not
  // yet sent must be dropped and their units done again.
  absl::Status SyncTouched();

  // Buffer bytes in use now and at most so far.
  uint64_t buffer_bytes_in_use() const;
  uint64_t buffer_bytes_peak() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace octavo
