#pragma once

// The twin of simt.h for nvcc: each word is an intrinsic or one PTX instruction. sm_80 and up.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/simt/grid.h"

#define OCTAVO_DEVICE __device__ __forceinline__
#define OCTAVO_UNROLL _Pragma("unroll")
#define OCTAVO_ROLLED _Pragma("unroll 1")

namespace octavo::simt {

OCTAVO_DEVICE int ThreadIndex() { return static_cast<int>(threadIdx.x); }
OCTAVO_DEVICE int Lane() { return ThreadIndex() % kWarp; }
OCTAVO_DEVICE int Warp() { return ThreadIndex() / kWarp; }
OCTAVO_DEVICE int Block() { return static_cast<int>(blockIdx.x); }
OCTAVO_DEVICE int BlockRow() { return static_cast<int>(blockIdx.y); }
OCTAVO_DEVICE int Blocks() { return static_cast<int>(gridDim.x); }

OCTAVO_DEVICE void SyncBlock() { __syncthreads(); }
OCTAVO_DEVICE void SyncWarp() { __syncwarp(); }

template <typename T>
OCTAVO_DEVICE T Shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
template <typename T>
OCTAVO_DEVICE T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

template <typename T>
OCTAVO_DEVICE T* SharedMemory() {
  extern __shared__ __align__(128) unsigned char octavo_shared_memory[];
  return reinterpret_cast<T*>(octavo_shared_memory);
}

OCTAVO_DEVICE uint32_t AtomicMax(uint32_t* at, uint32_t value) { return atomicMax(at, value); }
OCTAVO_DEVICE uint32_t AtomicAdd(uint32_t* at, uint32_t value) { return atomicAdd(at, value); }

OCTAVO_DEVICE float AddRounded(float a, float b) { return __fadd_rn(a, b); }

OCTAVO_DEVICE uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

OCTAVO_DEVICE void CopyAsyncPart(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(bytes));
}
OCTAVO_DEVICE void CopyAsync16(void* shared, const void* global, bool valid) {
  CopyAsyncPart(shared, global, valid ? 16 : 0);
}
OCTAVO_DEVICE void CommitCopies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int kPending>
OCTAVO_DEVICE void WaitCopies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

OCTAVO_DEVICE void LoadMatrix4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

OCTAVO_DEVICE void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// A fused product with -0, which every GPU of ours has and which keeps the sign of a zero.
OCTAVO_DEVICE uint32_t ScaleBf16Pair(uint32_t pair, uint32_t factors) {
  uint32_t out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;\n" : "=r"(out) : "r"(pair), "r"(factors), "r"(0x80008000u));
  return out;
}

OCTAVO_DEVICE void MmaF16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
OCTAVO_DEVICE void MmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
OCTAVO_DEVICE void MmaS8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};\n"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads) Run(const __grid_constant__ Kernel kernel) {
  kernel();
}

// Errors are had from cudaGetLastError.
template <typename Kernel>
void Launch(const Kernel& kernel, const Grid& grid, Stream stream) {
  if (grid.blocks <= 0 || grid.rows <= 0) return;
  if (grid.shared_bytes > 48 * 1024) {
    cudaFuncSetAttribute(Run<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         grid.shared_bytes);
  }
  const dim3 blocks(static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.rows));
  Run<Kernel><<<blocks, Kernel::kThreads, static_cast<size_t>(grid.shared_bytes), stream>>>(kernel);
}

}  // namespace octavo::simt
