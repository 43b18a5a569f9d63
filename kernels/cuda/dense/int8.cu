// Kernels of DenseTypes::kInt8.

#include "kernels/cuda/dense/dense_kernel.h"

namespace octavo::cuda {
namespace {

constexpr DenseEntry kEntries[] = {
    DenseEntryOf<DenseTypes::kInt8, DenseTile::kRows8>(),
    DenseEntryOf<DenseTypes::kInt8, DenseTile::kRows16>(),
    DenseEntryOf<DenseTypes::kInt8, DenseTile::kRows64>(),
    DenseEntryOf<DenseTypes::kInt8, DenseTile::kRows128>(),
};

}  // namespace

std::span<const DenseEntry> DenseInt8Entries() { return kEntries; }

}  // namespace octavo::cuda
