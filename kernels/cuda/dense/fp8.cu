// Kernels of DenseTypes::kFp8.

#include "kernels/cuda/dense/dense_kernel.h"

namespace octavo::cuda {
namespace {

constexpr DenseEntry kEntries[] = {
    DenseEntryOf<DenseTypes::kFp8, DenseTile::kRows8>(),
    DenseEntryOf<DenseTypes::kFp8, DenseTile::kRows16>(),
    DenseEntryOf<DenseTypes::kFp8, DenseTile::kRows64>(),
    DenseEntryOf<DenseTypes::kFp8, DenseTile::kRows128>(),
};

}  // namespace

std::span<const DenseEntry> DenseFp8Entries() { return kEntries; }

}  // namespace octavo::cuda
