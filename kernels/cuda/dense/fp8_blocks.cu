// Kernels of DenseTypes::kFp8Blocks.

#include "kernels/cuda/dense/dense_kernel.h"

namespace octavo::cuda {
namespace {

constexpr DenseEntry kEntries[] = {
    DenseEntryOf<DenseTypes::kFp8Blocks, DenseTile::kRows8>(),
    DenseEntryOf<DenseTypes::kFp8Blocks, DenseTile::kRows16>(),
    DenseEntryOf<DenseTypes::kFp8Blocks, DenseTile::kRows64>(),
    DenseEntryOf<DenseTypes::kFp8Blocks, DenseTile::kRows128>(),
};

}  // namespace

std::span<const DenseEntry> DenseFp8BlocksEntries() { return kEntries; }

}  // namespace octavo::cuda
