#pragma once

// Storage types: sizes, safetensors names.

#include <cstdint>
#include <optional>
#include <string_view>

namespace octavo {

// Numbered as proto DType (dtype_proto.h converts).
enum class DType : uint8_t {
  kInvalid = 0,
  kF32 = 1,
  kF16 = 2,
  kBF16 = 3,
  kF8E4M3 = 4,
  kI8 = 5,
  kU8 = 6,
  kI16 = 7,
  kI32 = 8,
  kI64 = 9,
  kF64 = 10,
  kBool = 11,
  kU16 = 12,
  kU32 = 13,
  kU64 = 14,
  kF8E5M2 = 15,
};

// Bytes per element; 0 for kInvalid.
int ByteSize(DType dtype);

// The safetensors spelling ("BF16", "F8_E4M3"), and back. Nothing for names outside the table.
std::string_view Name(DType dtype);
std::optional<DType> DTypeFromName(std::string_view name);

// True for F32, F16, BF16: what a weight may be before quantization.
bool IsSourceFloat(DType dtype);

}  // namespace octavo
