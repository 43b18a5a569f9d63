#include "worker/stage/buffer_budget.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <new>
#include <utility>

#include "core/base/error.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// How often a waiting borrower looks at its stop token.
constexpr std::chrono::milliseconds kStopCheck{50};

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHugePage = 2u << 20;

// What fills at least half of a huge page gets one, and starts at one.
bool IsLarge(uint64_t size) { return size >= kHugePage / 2; }

std::byte* Allocate(uint64_t held) {
  // The allocator wants a multiple of the alignment; what is never touched takes no memory.
  const uint64_t page = IsLarge(held) ? kHugePage : kPage;
  void* const bytes = std::aligned_alloc(page, (held + page - 1) / page * page);
  if (bytes == nullptr) throw std::bad_alloc();
  if (page == kHugePage) madvise(bytes, held, MADV_HUGEPAGE);
  return static_cast<std::byte*>(bytes);
}

}  // namespace

uint64_t BufferBudget::Held(uint64_t size) {
  const uint64_t whole = (size + kPage - 1) / kPage * kPage;
  return IsLarge(whole) ? std::max(whole, kHugePage) : whole;
}

BufferBudget::Loan::Loan(BufferBudget* budget, uint64_t size)
    : budget_(budget), size_(size), bytes_(Allocate(size)) {}

BufferBudget::Loan::Loan(Loan&& other) noexcept
    : budget_(std::exchange(other.budget_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      bytes_(std::move(other.bytes_)) {}

BufferBudget::Loan::~Loan() {
  if (budget_ == nullptr) return;
  bytes_.reset();
  budget_->Return(size_);
}

absl::StatusOr<BufferBudget::Loan> BufferBudget::Borrow(uint64_t size,
                                                        const std::stop_token& stop) {
  size = Held(size);
  if (size > limit_) {
    return MakeError(
        Reason::kOutOfMemory,
        fmt::format("a block of rows needs {} bytes of buffers, {} are allowed", size, limit_), {},
        "Give the worker more --memory");
  }
  {
    MutexLock lock(mutex_);
    while (in_use_ + size > limit_) {
      if (stop.stop_requested()) return MakeError(Reason::kCancelled, "the task was stopped");
      returned_.WaitFor(mutex_, kStopCheck);
    }
    in_use_ += size;
    peak_ = std::max(peak_, in_use_);
  }
  return Loan(this, size);
}

void BufferBudget::Return(uint64_t size) {
  {
    MutexLock lock(mutex_);
    in_use_ -= size;
  }
  returned_.NotifyAll();
}

uint64_t BufferBudget::in_use() const {
  MutexLock lock(mutex_);
  return in_use_;
}

uint64_t BufferBudget::peak() const {
  MutexLock lock(mutex_);
  return peak_;
}

}  // namespace octavo
