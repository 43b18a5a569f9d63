#pragma once

// Memory with a budget: large aligned buffers, huge pages where the kernel has them, zeroed. A
// process keeps up to 32 MiB of what was given back for the next who asks, beside all budgets. Host
// twin of what a device allocator will be.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"

namespace octavo {

// An owned region. Empty after a move. The first touch of a page takes the memory.
class Buffer {
 public:
  Buffer() = default;
  ~Buffer();
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;

  std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  std::span<T> span() const {
    return {as<T>(), size_ / sizeof(T)};
  }

 private:
  friend class Arena;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_ = 0;
  class Arena* arena_ = nullptr;
};

// Hands out buffers until `budget_bytes` are in use (0: no limit). Not thread-safe. Outlives its
// buffers.
class Arena {
 public:
  explicit Arena(uint64_t budget_bytes) : budget_(budget_bytes) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // At least 64-byte aligned, zeroed. kOutOfMemory names `what`, its size and what is left.
  absl::StatusOr<Buffer> Allocate(uint64_t bytes, std::string_view what);

  // While true, what is handed out is in memory at once, not page by page at the first touch.
  void set_touches(bool touches) { touches_ = touches; }

  uint64_t used_bytes() const { return used_; }
  uint64_t budget_bytes() const { return budget_; }

 private:
  friend class Buffer;
  uint64_t budget_;
  uint64_t used_ = 0;
  bool touches_ = false;
};

}  // namespace octavo
