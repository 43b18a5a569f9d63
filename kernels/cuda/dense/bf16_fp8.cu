// Kernels of DenseTypes::kBf16Fp8.
// Without kRows128: its stages would not fit where a multiprocessor has 100 KB.

#include "kernels/cuda/dense/dense_kernel.h"

namespace octavo::cuda {
namespace {

constexpr DenseEntry kEntries[] = {
    DenseEntryOf<DenseTypes::kBf16Fp8, DenseTile::kRows8>(),
    DenseEntryOf<DenseTypes::kBf16Fp8, DenseTile::kRows16>(),
    DenseEntryOf<DenseTypes::kBf16Fp8, DenseTile::kRows64>(),
};

}  // namespace

std::span<const DenseEntry> DenseBf16Fp8Entries() { return kEntries; }

}  // namespace octavo::cuda
