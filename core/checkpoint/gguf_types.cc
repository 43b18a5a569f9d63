// The storage types of ggml: names, block sizes, and the ones that can be turned into numbers.

#include <cstring>

#include "core/base/status.h"
#include "core/checkpoint/gguf.h"
#include "core/tensor/bare/float_bits.h"
#include "fmt/format.h"

namespace octavo {
namespace {

// Fills out[0..block_elements) from one block.
using DequantizeBlock = void (*)(const uint8_t* block, float* out);

uint16_t Load16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

void BlockF32(const uint8_t* block, float* out) { std::memcpy(out, block, sizeof(float)); }
void BlockF16(const uint8_t* block, float* out) { *out = F32FromF16(Load16(block)); }
void BlockBF16(const uint8_t* block, float* out) { *out = F32FromBf16(Load16(block)); }

void BlockQ4_0(const uint8_t* block, float* out) {
  const float d = F32FromF16(Load16(block));
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((block[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((block[2 + i] >> 4) - 8);
  }
}

void BlockQ4_1(const uint8_t* block, float* out) {
  const float d = F32FromF16(Load16(block));
  const float m = F32FromF16(Load16(block + 2));
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(block[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(block[4 + i] >> 4) + m;
  }
}

void BlockQ8_0(const uint8_t* block, float* out) {
  const float d = F32FromF16(Load16(block));
  for (int i = 0; i < 32; ++i) {
    out[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * d;
  }
}

struct TypeRow {
  uint32_t id;
  std::string_view name;
  uint32_t elements;  // per block
  uint32_t bytes;     // per block
  DequantizeBlock dequantize = nullptr;
};

constexpr TypeRow kTypes[] = {
    {0, "F32", 1, 4, BlockF32},
    {1, "F16", 1, 2, BlockF16},
    {2, "Q4_0", 32, 18, BlockQ4_0},
    {3, "Q4_1", 32, 20, BlockQ4_1},
    {6, "Q5_0", 32, 22},
    {7, "Q5_1", 32, 24},
    {8, "Q8_0", 32, 34, BlockQ8_0},
    {9, "Q8_1", 32, 36},
    {10, "Q2_K", 256, 84},
    {11, "Q3_K", 256, 110},
    {12, "Q4_K", 256, 144},
    {13, "Q5_K", 256, 176},
    {14, "Q6_K", 256, 210},
    {15, "Q8_K", 256, 292},
    {16, "IQ2_XXS", 256, 66},
    {17, "IQ2_XS", 256, 74},
    {18, "IQ3_XXS", 256, 98},
    {19, "IQ1_S", 256, 50},
    {20, "IQ4_NL", 32, 18},
    {21, "IQ3_S", 256, 110},
    {22, "IQ2_S", 256, 82},
    {23, "IQ4_XS", 256, 136},
    {24, "I8", 1, 1},
    {25, "I16", 1, 2},
    {26, "I32", 1, 4},
    {27, "I64", 1, 8},
    {28, "F64", 1, 8},
    {29, "IQ1_M", 256, 56},
    {30, "BF16", 1, 2, BlockBF16},
    {34, "TQ1_0", 256, 54},
    {35, "TQ2_0", 256, 66},
    {39, "MXFP4", 32, 17},
};

const TypeRow* FindType(uint32_t id) {
  for (const TypeRow& row : kTypes) {
    if (row.id == id) return &row;
  }
  return nullptr;
}

}  // namespace

std::string GgmlTypeName(uint32_t type) {
  const TypeRow* row = FindType(type);
  return row != nullptr ? std::string(row->name) : fmt::format("type {}", type);
}

bool CanDequantize(uint32_t type) {
  const TypeRow* row = FindType(type);
  return row != nullptr && row->dequantize != nullptr;
}

std::optional<uint64_t> GgmlBytes(uint32_t type, uint64_t elements) {
  const TypeRow* row = FindType(type);
  if (row == nullptr || elements % row->elements != 0) return std::nullopt;
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(elements / row->elements, uint64_t{row->bytes}, &bytes)) {
    return std::nullopt;
  }
  return bytes;
}

void DequantizeRows(uint32_t type, std::span<const std::byte> blocks, std::span<float> out) {
  const TypeRow* row = FindType(type);
  OCTAVO_CHECK(row != nullptr && row->dequantize != nullptr);
  OCTAVO_CHECK(GgmlBytes(type, out.size()) == blocks.size());
  const uint8_t* from = reinterpret_cast<const uint8_t*>(blocks.data());
  for (size_t i = 0; i < out.size(); i += row->elements, from += row->bytes) {
    row->dequantize(from, out.data() + i);
  }
}

}  // namespace octavo
