// Kernels of DenseTypes::kBf16.

#include "kernels/cuda/dense/dense_kernel.h"

namespace octavo::cuda {
namespace {

constexpr DenseEntry kEntries[] = {
    DenseEntryOf<DenseTypes::kBf16, DenseTile::kRows8>(),
    DenseEntryOf<DenseTypes::kBf16, DenseTile::kRows16>(),
    DenseEntryOf<DenseTypes::kBf16, DenseTile::kRows64>(),
    DenseEntryOf<DenseTypes::kBf16, DenseTile::kRows128>(),
};

}  // namespace

std::span<const DenseEntry> DenseBf16Entries() { return kEntries; }

}  // namespace octavo::cuda
