#include "core/tensor/dtype.h"

#include <array>

namespace octavo {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  int bytes;
};

constexpr std::array kRows = {
    Row{DType::kF32, "F32", 4},        Row{DType::kF16, "F16", 2},
    Row{DType::kBF16, "BF16", 2},      Row{DType::kF8E4M3, "F8_E4M3", 1},
    Row{DType::kI8, "I8", 1},          Row{DType::kU8, "U8", 1},
    Row{DType::kI16, "I16", 2},        Row{DType::kI32, "I32", 4},
    Row{DType::kI64, "I64", 8},        Row{DType::kF64, "F64", 8},
    Row{DType::kBool, "BOOL", 1},      Row{DType::kU16, "U16", 2},
    Row{DType::kU32, "U32", 4},        Row{DType::kU64, "U64", 8},
    Row{DType::kF8E5M2, "F8_E5M2", 1},
};

}  // namespace

int ByteSize(DType dtype) {
  for (const Row& row : kRows) {
    if (row.dtype == dtype) return row.bytes;
  }
  return 0;
}

std::string_view Name(DType dtype) {
  for (const Row& row : kRows) {
    if (row.dtype == dtype) return row.name;
  }
  return "INVALID";
}

std::optional<DType> DTypeFromName(std::string_view name) {
  for (const Row& row : kRows) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

bool IsSourceFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

}  // namespace octavo
