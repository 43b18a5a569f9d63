#include "worker/device/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <iterator>
#include <mutex>

#include "core/base/error.h"
#include "fmt/format.h"

namespace octavo {
namespace {

constexpr uint64_t kHugePage = 2u << 20;

// Regions given back that may be taken again, of this process: a new page costs more than filling
// an old one with zeros. Bounded; what came first leaves first.
class IdleRegions {
 public:
  static constexpr uint64_t kBytesMax = 32u << 20;

  static IdleRegions& Get() {
    static IdleRegions* const regions = new IdleRegions();  // buffers may outlive main
    return *regions;
  }

  // A region of exactly `bytes`, or null.
  std::byte* Take(uint64_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(regions_.rbegin(), regions_.rend(),
                                    [&](const Region& region) { return region.bytes == bytes; });
    if (found == regions_.rend()) return nullptr;
    std::byte* const at = found->at;
    bytes_ -= bytes;
    regions_.erase(std::next(found).base());
    return at;
  }

  void Give(std::byte* at, uint64_t bytes) {
    if (bytes > kBytesMax / 2) {
      munmap(at, bytes);
      return;
    }
    const std::lock_guard lock(mutex_);
    regions_.push_back({at, bytes});
    bytes_ += bytes;
    while (bytes_ > kBytesMax) {
      munmap(regions_.front().at, regions_.front().bytes);
      bytes_ -= regions_.front().bytes;
      regions_.pop_front();
    }
  }

 private:
  struct Region {
    std::byte* at;
    uint64_t bytes;
  };
  std::mutex mutex_;
  std::deque<Region> regions_;
  uint64_t bytes_ = 0;
};

// Address space of `bytes`, whole huge pages at a multiple of one; null with errno set.
std::byte* Map(uint64_t bytes, uint64_t page) {
  // One huge page more, so that the region can start at a multiple of one; the ends are given back.
  const uint64_t extra = page == kHugePage ? kHugePage : 0;
  void* raw =
      mmap(nullptr, bytes + extra, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  auto address = reinterpret_cast<uintptr_t>(raw);
  const uintptr_t aligned = extra == 0 ? address : (address + extra - 1) / extra * extra;
  if (aligned != address) munmap(raw, aligned - address);
  const uintptr_t tail = address + extra - aligned;
  if (tail != 0) munmap(reinterpret_cast<void*>(aligned + bytes), tail);
  if (extra != 0) madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
  return reinterpret_cast<std::byte*>(aligned);
}

}  // namespace

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  IdleRegions::Get().Give(data_, mapped_);
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
  std::byte* at = IdleRegions::Get().Take(mapped);
  if (at != nullptr) {
    std::memset(at, 0, mapped);
  } else {
    at = Map(mapped, page);
    if (at == nullptr) {
      return ErrnoError(fmt::format("cannot map {} bytes for {}", mapped, what), errno, {});
    }
    if (touches_) std::memset(at, 0, mapped);
  }
  Buffer buffer;
  buffer.data_ = at;
  buffer.size_ = bytes;
  buffer.mapped_ = mapped;
  buffer.arena_ = this;
  used_ += mapped;
  return buffer;
}

}  // namespace octavo
