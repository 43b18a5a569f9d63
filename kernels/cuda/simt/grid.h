#pragma once

// The shape of a launch, and how memory is had for tests that run on either twin of simt.h.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

struct CUstream_st;

namespace octavo::simt {

// A cudaStream_t without CUDA's headers. The host twin ignores it: what it launches is done when
// Launch returns.
using Stream = CUstream_st*;

struct Grid {
  int blocks = 1;        // Block() is 0 .. blocks - 1
  int rows = 1;          // BlockRow() is 0 .. rows - 1
  int shared_bytes = 0;  // dynamic shared memory of a block, at most 99 KiB
};

inline constexpr int kWarp = 32;

// Memory that both the kernels and the caller see (managed memory on a GPU), 16-byte aligned, with
// margins that Intact looks at. On the host twin no byte from 16 behind the end on can be read.
class UnifiedBytes {
 public:
  explicit UnifiedBytes(size_t size);  // filled with 0xa5; ends the process where there is none
  ~UnifiedBytes();
  UnifiedBytes(const UnifiedBytes&) = delete;
  UnifiedBytes& operator=(const UnifiedBytes&) = delete;
  std::byte* data() const { return data_; }
  bool Intact() const;  // nothing was written before or behind

 private:
  static constexpr size_t kMargin = 256;
  std::byte* base_ = nullptr;
  std::byte* data_ = nullptr;
  size_t size_;
};

// The same as an array.
template <typename T>
class Unified {
 public:
  explicit Unified(size_t count)
      : count_(count), bytes_(std::make_unique<UnifiedBytes>(count * sizeof(T))) {}
  explicit Unified(std::span<const T> values) : Unified(values.size()) {
    for (size_t i = 0; i < count_; ++i) data()[i] = values[i];
  }
  T* data() const { return reinterpret_cast<T*>(bytes_->data()); }
  size_t size() const { return count_; }
  T& operator[](size_t i) const { return data()[i]; }
  std::span<T> span() const { return {data(), count_}; }
  bool Intact() const { return bytes_->Intact(); }

 private:
  size_t count_;
  std::unique_ptr<UnifiedBytes> bytes_;
};

// Waits until everything launched is done. False, with the reason on stderr, where a launch or a
// kernel failed.
bool Finish();

}  // namespace octavo::simt
