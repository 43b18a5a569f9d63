// Memory on the host twin.

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/simt/memory.h"

namespace octavo::simt {

namespace {

constexpr int kUnifiedFill = 0xa5;

size_t RoundUp(size_t size, size_t to) { return (size + to - 1) / to * to; }

// Pages of `size` bytes with a margin before; one more lies behind them that cannot be touched.
size_t MappedBytes(size_t size, size_t margin) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return RoundUp(margin + RoundUp(size, 16), page);
}

[[noreturn]] void NoMemory(size_t bytes) {
  std::fprintf(stderr, "error: no %zu bytes of memory\n", bytes);
  std::abort();
}

}  // namespace

UnifiedBytes::UnifiedBytes(size_t size) : size_(size) {
  const size_t mapped = MappedBytes(size, kMargin);
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, mapped + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, mapped, PROT_READ | PROT_WRITE) != 0) {
    NoMemory(mapped);
  }
  base_ = static_cast<std::byte*>(memory);
  data_ = base_ + mapped - RoundUp(size, 16);
  std::memset(base_, kUnifiedFill, mapped);
}

UnifiedBytes::~UnifiedBytes() {
  munmap(base_, MappedBytes(size_, kMargin) + static_cast<size_t>(sysconf(_SC_PAGESIZE)));
}

bool UnifiedBytes::Intact() const {
  const auto untouched = [](std::byte b) { return b == std::byte{kUnifiedFill}; };
  return std::all_of(data_ - kMargin, data_, untouched) &&
         std::all_of(data_ + size_, data_ + RoundUp(size_, 16), untouched);
}

bool Finish() { return true; }

void* AllocateDevice(size_t bytes) { return std::aligned_alloc(256, RoundUp(bytes, 256)); }
void FreeDevice(void* memory) { std::free(memory); }

// No bytes may be of nowhere, which memcpy does not take.
bool CopyToDevice(void* to, const void* from, size_t bytes, Stream) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return true;
}
bool CopyFromDevice(void* to, const void* from, size_t bytes, Stream) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return true;
}
bool ClearDevice(void* at, size_t bytes, Stream) {
  if (bytes > 0) std::memset(at, 0, bytes);
  return true;
}

}  // namespace octavo::simt
