#pragma once

// What GPU kernels are written in. A kernel is a struct of plain members (its arguments) with
//
//   static constexpr int kThreads        threads of a block, a multiple of 32
//   OCTAVO_DEVICE void operator()() const  what one thread does
//
// and Launch(kernel, grid, stream) runs it. The words a kernel may use (thread numbers, barriers,
// shuffles, atomics, asynchronous copies, tensor-core products) have two twins: device.h, for nvcc,
// and host.h, which runs the threads of a block as fibers on a CPU and holds every word to what
// the PTX manual says of it. The same sources make both, so that kernels are tested where no GPU
// is: indices, barriers, masks and rounding, not timing and not the order inside a tensor core.
//
// OCTAVO_UNROLL stands before a loop of constant length over what must stay in registers,
// OCTAVO_ROLLED before one that would take too many of them.
//
// Words (namespace octavo::simt):
//   ThreadIndex() Lane() Warp() Block() BlockRow() Blocks()
//   SyncBlock() SyncWarp()             all threads of the block, of the warp, reach it
//   Shuffle(v, lane) ShuffleXor(v, m)  whole warps, lane modulo 32; v of 4 or 8 bytes
//   SharedMemory<T>()                  the block's dynamic shared memory, 128-byte aligned
//   AtomicMax(p, v) AtomicAdd(p, v)    on uint32_t; return the old value
//   AddRounded(a, b)                   F32 a + b that no compiler contracts
//   CopyAsync16(shared, global, valid) 16 bytes, zeros where not valid; arrives at a WaitCopies
//   CopyAsyncPart(shared, global, n)   the same for the first n of 16 bytes, 0 to 16; then zeros
//   CommitCopies() WaitCopies<N>()     closes a group of copies; all but the last N groups are here
//   LoadMatrix4(r, row)                four 8x8 matrices of 16-bit elements, one row per lane
//   LoadMatrix4Transposed(r, row)      the same, each matrix transposed
//   ScaleBf16Pair(pair, factors)       two BF16 products, rounded once; subnormals count
//   MmaF16 MmaBf16 (c, a, b)           16x8 += 16x16 * 16x8, F32 sums
//   MmaS8(c, a, b)                     16x8 += 16x32 * 32x8, INT32 sums

#include "kernels/cuda/simt/grid.h"

#if defined(__CUDACC__)
#include "kernels/cuda/simt/device.h"
#else
#include "kernels/cuda/simt/host.h"
#endif
