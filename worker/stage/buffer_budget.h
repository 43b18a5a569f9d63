#pragma once

// A bound over the bytes of buffers that several threads hold at once.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <stop_token>

#include "absl/status/statusor.h"
#include "core/base/mutex.h"

namespace octavo {

class BufferBudget {
 public:
  // Bytes on loan, aligned to 4096 (direct reads), in huge pages where there are about as many: a
  // disk gets one request for each stretch of physical memory, and many small ones halve its rate.
  // They go back when it is destroyed. Not initialized.
  class Loan {
   public:
    Loan(Loan&& other) noexcept;
    Loan& operator=(Loan&&) = delete;
    ~Loan();
    std::span<std::byte> bytes() const { return {bytes_.get(), size_}; }

   private:
    struct Free {
      void operator()(std::byte* bytes) const { std::free(bytes); }
    };
    friend class BufferBudget;
    Loan(BufferBudget* budget, uint64_t size);
    BufferBudget* budget_;
    uint64_t size_;
    std::unique_ptr<std::byte[], Free> bytes_;
  };

  explicit BufferBudget(uint64_t limit) : limit_(limit) {}

  // Bytes that a loan of `size` holds: whole pages, one huge page at least if it fills half of it.
  static uint64_t Held(uint64_t size);

  // Waits until `size` bytes, or what they hold, fit. kOutOfMemory if they never can, naming both
  // numbers; kCancelled when stopped. Must outlive its loans.
  absl::StatusOr<Loan> Borrow(uint64_t size, const std::stop_token& stop);

  uint64_t in_use() const;
  uint64_t peak() const;

 private:
  void Return(uint64_t size);

  const uint64_t limit_;
  mutable Mutex mutex_;
  CondVar returned_;
  uint64_t in_use_ OCTAVO_GUARDED_BY(mutex_) = 0;
  uint64_t peak_ OCTAVO_GUARDED_BY(mutex_) = 0;
};

}  // namespace octavo
