// Memory and errors on a GPU.

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/simt/memory.h"
#include "kernels/cuda/simt/simt.h"

namespace octavo::simt {

namespace {

constexpr int kFill = 0xa5;

bool IsFine(cudaError_t error) {
  if (error == cudaSuccess) return true;
  std::fprintf(stderr, "error: CUDA: %s\n", cudaGetErrorString(error));
  return false;
}

}  // namespace

void* AllocateDevice(size_t bytes) {
  void* memory = nullptr;
  return cudaMalloc(&memory, bytes) == cudaSuccess ? memory : nullptr;
}

void FreeDevice(void* memory) { cudaFree(memory); }

bool CopyToDevice(void* to, const void* from, size_t bytes, Stream stream) {
  return IsFine(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream));
}

bool CopyFromDevice(void* to, const void* from, size_t bytes, Stream stream) {
  return IsFine(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream)) &&
         IsFine(cudaStreamSynchronize(stream));
}

bool ClearDevice(void* at, size_t bytes, Stream stream) {
  return IsFine(cudaMemsetAsync(at, 0, bytes, stream));
}

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

bool Finish() { return IsFine(cudaGetLastError()) && IsFine(cudaDeviceSynchronize()); }

}  // namespace octavo::simt
