// Memory and errors of tests on a GPU.

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/simt/simt.h"

namespace octavo::simt {

constexpr int kFill = 0xa5;

UnifiedBytes::UnifiedBytes(size_t size) : size_(size) {
  void* memory = nullptr;
  const cudaError_t error = cudaMallocManaged(&memory, size + 2 * kMargin);
  if (error != cudaSuccess) {
    std::fprintf(stderr, "error: %zu bytes of managed memory: %s\n", size,
                 cudaGetErrorString(error));
    std::exit(1);
  }
  base_ = static_cast<std::byte*>(memory);
  data_ = base_ + kMargin;
  std::memset(base_, kFill, size + 2 * kMargin);
}

UnifiedBytes::~UnifiedBytes() { cudaFree(base_); }

bool UnifiedBytes::Intact() const {
  for (size_t i = 0; i < kMargin; ++i) {
    if (base_[i] != std::byte{kFill} || base_[kMargin + size_ + i] != std::byte{kFill})
      return false;
  }
  return true;
}

bool Finish() {
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (error != cudaSuccess) std::fprintf(stderr, "error: CUDA: %s\n", cudaGetErrorString(error));
  return error == cudaSuccess;
}

}  // namespace octavo::simt
