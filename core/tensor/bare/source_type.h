#pragma once

// The three types a weight may have before it is quantized, as kernels name them (kernels do not
// see core/tensor/dtype.h).

#include <cstddef>
#include <cstdint>

namespace octavo {

enum class SourceType : uint8_t { kBf16 = 0, kF16 = 1, kF32 = 2 };

// Bytes per element.
[[gnu::always_inline]] inline constexpr size_t ByteSize(SourceType type) {
  return type == SourceType::kF32 ? 4 : 2;
}

}  // namespace octavo
