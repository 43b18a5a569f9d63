#include "worker/device/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "core/base/error.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr uint64_t kHugePage = 2u << 20;

}  // namespace

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  munmap(data_, mapped_);
  arena_->used_ -= mapped_;
}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
  std::swap(arena_, other.arena_);
  return *this;
}

absl::StatusOr<Buffer> Arena::Allocate(uint64_t bytes, std::string_view what) {
  const uint64_t page = bytes >= kHugePage ? kHugePage : 4096;
  const uint64_t mapped = bytes == 0 ? page : (bytes + page - 1) / page * page;
  if (budget_ != 0 && mapped > budget_ - std::min(used_, budget_)) {
    return MakeError(Reason::kOutOfMemory,
                     fmt::format("{} needs {} bytes, {} of the budget of {} are in use", what,
                                 mapped, used_, budget_),
                     {}, "give the worker more --memory, or serve with more ranks");
  }
  // One huge page more, so that the region can start at a multiple of one; the ends are given back.
  const uint64_t extra = page == kHugePage ? kHugePage : 0;
  void* raw =
      mmap(nullptr, mapped + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) {
    return ErrnoError(fmt::format("cannot map {} bytes for {}", mapped, what), errno, {});
  }
  auto address = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = extra == 0 ? address : (address + extra - 1) / extra * extra;
  if (aligned != address) munmap(raw, aligned - address);
  const uintptr_t tail = address + extra - aligned;
  if (tail != 0) munmap(reinterpret_cast<void*>(aligned + mapped), tail);
  if (extra != 0) madvise(reinterpret_cast<void*>(aligned), mapped, MADV_HUGEPAGE);
  Buffer buffer;
  buffer.data_ = reinterpret_cast<std::byte*>(aligned);
  buffer.size_ = bytes;
  buffer.mapped_ = mapped;
  buffer.arena_ = this;
  used_ += mapped;
  return buffer;
}

}  // namespace octavo
