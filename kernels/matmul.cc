#include "kernels/matmul.h"

#include <cstring>

#include "kernels/serving_twins.h"

namespace octavo {

void PackChannel(const PackedWeights& layout, std::byte* tiles, int64_t channel, int64_t k_begin,
                 const std::byte* elements, int64_t count) {
  const WeightType type = layout.type;
  const int64_t size = ElementBytes(type);
  const int64_t group = channel / kTileChannels;
  const int64_t lane = channel % kTileChannels;
  // The run of consecutive k that stays together in a tile: 2 elements (FP8, BF16) or 4 (INT8).
  const int64_t run = type == WeightType::kInt8 ? 4 : 2;
  std::byte* row = tiles + group * layout.block_count * TileBytes(type);
  for (int64_t i = 0; i < count; i += run) {
    const int64_t k = k_begin + i;
    std::byte* to =
        row + (k / kTileDepth) * TileBytes(type) + TileOffset(type, lane, k % kTileDepth);
    const int64_t left = count - i;
    if (left >= run) {
      if (size * run == 4) {
        std::memcpy(to, elements + i * size, 4);
      } else {
        std::memcpy(to, elements + i * size, 2);
      }
    } else {
      std::memcpy(to, elements + i * size, static_cast<size_t>(left * size));
    }
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
