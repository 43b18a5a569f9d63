#pragma once

// The twin of simt.h without a GPU. The threads of a block are fibers of the calling thread; one
// runs until it waits for others, then the next. In which order they run between two barriers, and
// which warps lag behind the others, is drawn anew for every block, so that a missing barrier
// shows. Shared memory is filled with NaNs before every block. A block in which some wait for what
// the others will never do ends the process with a message, and so does a use of shared memory
// beyond what was asked for.
//
// For tests: one Launch at a time in a process.

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/tensor/bare/float_bits.h"
#include "kernels/cuda/simt/grid.h"

#define OCTAVO_DEVICE inline
#define OCTAVO_UNROLL
#define OCTAVO_ROLLED

namespace octavo::simt {

namespace host {

struct Position {
  int thread = 0;
  int block = 0;
  int row = 0;
  int blocks = 1;
};
extern Position here;  // of the fiber that runs

inline constexpr size_t kSlotBytes = 32;

// Hands `value` to the other lanes; returns what all 32 handed in, a slot each. Valid until the
// fiber's next call.
const std::byte* Exchange(const void* value, size_t size);

std::byte* SharedBytes();
void Copy16(void* shared, const void* global, int bytes);
void Commit();
void Wait(int pending);
void RunGrid(const Grid& grid, int threads, void (*body)(const void*), const void* kernel);

// The D = A B + C of one warp; every lane calls with its fragments. kBytes: size of an element.
float Half(uint16_t bits, bool bf16);
void Mma16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bool bf16);

}  // namespace host

inline int ThreadIndex() { return host::here.thread; }
inline int Lane() { return ThreadIndex() % kWarp; }
inline int Warp() { return ThreadIndex() / kWarp; }
inline int Block() { return host::here.block; }
inline int BlockRow() { return host::here.row; }
inline int Blocks() { return host::here.blocks; }

void SyncBlock();
inline void SyncWarp() { host::Exchange(nullptr, 0); }

template <typename T>
T Shuffle(T value, int lane) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  T out;
  std::memcpy(&out, host::Exchange(&value, sizeof(T)) + (lane & (kWarp - 1)) * host::kSlotBytes,
              sizeof(T));
  return out;
}
template <typename T>
T ShuffleXor(T value, int mask) {
  return Shuffle(value, Lane() ^ mask);
}

template <typename T>
T* SharedMemory() {
  return reinterpret_cast<T*>(host::SharedBytes());
}

inline uint32_t AtomicMax(uint32_t* at, uint32_t value) {
  const uint32_t old = *at;
  *at = old > value ? old : value;
  return old;
}
inline uint32_t AtomicAdd(uint32_t* at, uint32_t value) {
  const uint32_t old = *at;
  *at = old + value;
  return old;
}

inline float AddRounded(float a, float b) { return a + b; }

inline void CopyAsync16(void* shared, const void* global, bool valid) {
  host::Copy16(shared, global, valid ? 16 : 0);
}
inline void CopyAsyncPart(void* shared, const void* global, int bytes) {
  host::Copy16(shared, global, bytes);
}
inline void CommitCopies() { host::Commit(); }
template <int kPending>
void WaitCopies() {
  host::Wait(kPending);
}

void LoadMatrix4(uint32_t (&r)[4], const void* row);
void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row);
uint32_t ScaleBf16Pair(uint32_t pair, uint32_t factors);
inline void MmaF16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  host::Mma16(c, a, b, false);
}
inline void MmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  host::Mma16(c, a, b, true);
}
void MmaS8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <typename Kernel>
void Launch(const Kernel& kernel, const Grid& grid, Stream) {
  static_assert(Kernel::kThreads % kWarp == 0 && Kernel::kThreads <= 1024);
  if (grid.blocks <= 0 || grid.rows <= 0) return;
  host::RunGrid(
      grid, Kernel::kThreads, [](const void* k) { (*static_cast<const Kernel*>(k))(); }, &kernel);
}

}  // namespace octavo::simt
