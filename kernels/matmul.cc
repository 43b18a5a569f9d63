#include "kernels/matmul.h"

#include <cstring>

#include "kernels/serving_twins.h"

namespace octavo {

namespace {

// A whole tile's 32 k of one channel. Consecutive k lie together in runs of 2 (FP8, BF16) or 4
// (INT8) elements.
template <WeightType Type>
void PackWhole(std::byte* tile, int64_t lane, const std::byte* elements) {
  constexpr int64_t kRun = Type == WeightType::kInt8 ? 4 : 2;
  constexpr int64_t kBytes = kRun * ElementBytes(Type);
  for (int64_t k = 0; k < kTileDepth; k += kRun) {
    std::memcpy(tile + TileOffset(Type, lane, k), elements + k * ElementBytes(Type), kBytes);
  }
}

void PackWhole(WeightType type, std::byte* tile, int64_t lane, const std::byte* elements) {
  switch (type) {
    case WeightType::kBf16:
      return PackWhole<WeightType::kBf16>(tile, lane, elements);
    case WeightType::kFp8:
      return PackWhole<WeightType::kFp8>(tile, lane, elements);
    case WeightType::kInt8:
      return PackWhole<WeightType::kInt8>(tile, lane, elements);
  }
}

}  // namespace

void PackChannel(const PackedWeights& layout, std::byte* tiles, int64_t channel, int64_t k_begin,
                 const std::byte* elements, int64_t count) {
  const WeightType type = layout.type;
  const auto size = static_cast<size_t>(ElementBytes(type));
  const int64_t lane = channel % kTileChannels;
  std::byte* tile = tiles + (channel / kTileChannels * layout.block_count + k_begin / kTileDepth) *
                                TileBytes(type);
  int64_t i = 0;
  for (; i + kTileDepth <= count; i += kTileDepth) {
    PackWhole(type, tile, lane, elements + i * static_cast<int64_t>(size));
    tile += TileBytes(type);
  }
  for (int64_t k = 0; i + k < count; ++k) {
    std::memcpy(tile + TileOffset(type, lane, k), elements + (i + k) * static_cast<int64_t>(size),
                size);
  }
}

const MatmulOps& MatmulOpsFor(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx512) {
    static const bool vbmi =
        __builtin_cpu_supports("avx512vbmi") != 0 && __builtin_cpu_supports("avx512vnni") != 0;
    return vbmi ? internal::kMatmulAvx512Vbmi : internal::kMatmulAvx512;
  }
  if (isa == Isa::kAvx2) return internal::kMatmulAvx2;
#endif
  return internal::kMatmulReference;
}

std::span<const KernelRow> MatmulKernelRows() {
  static constexpr KernelRow kRows[] = {
      {"matmul", "bf16 x bf16|fp8, int8 x int8", Isa::kReference},
      {"matmul", "bf16 x bf16|fp8, int8 x int8", Isa::kAvx2},
      {"matmul", "bf16 x bf16|fp8, int8 x int8", Isa::kAvx512},
  };
  return kRows;
}

}  // namespace octavo
