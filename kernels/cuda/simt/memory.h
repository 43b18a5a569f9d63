#pragma once

// A GPU's memory, without CUDA's headers. The host twin's is ordinary memory.

#include <cstddef>

#include "kernels/cuda/simt/grid.h"

namespace octavo::simt {

// 256-byte aligned, not cleared; null where none is left.
void* AllocateDevice(size_t bytes);
void FreeDevice(void* memory);

// False where a copy, or what was launched before it, failed; the reason is on stderr. Copies from
// the device have arrived when the call returns, and so has everything launched on `stream`.
bool CopyToDevice(void* to, const void* from, size_t bytes, Stream stream);
bool CopyFromDevice(void* to, const void* from, size_t bytes, Stream stream);
bool ClearDevice(void* at, size_t bytes, Stream stream);

}  // namespace octavo::simt
