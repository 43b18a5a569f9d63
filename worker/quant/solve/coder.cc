#include "worker/quant/solve/coder.h"

#include <algorithm>
#include <cstring>

#include "core/scheme/compat.h"
#include "core/tensor/element.h"
#include "worker/quant/piece.h"

namespace octavo {
Coder CoderOfScales(const QuantizeRule& rule, const WeightRows& rows,
                    std::span<const std::byte> scales) {
  Coder coder;
  coder.code = rule.format.type() == v1::NUMERIC_INT8 ? CodeType::kInt8 : CodeType::kFp8;
  coder.source = SourceTypeOf(rows.dtype);
  const CompatMode& mode = CompatModeOf(rule.compat);
  if (mode.int8_full_range) coder.int8_min = -128;
  coder.saved_again = mode.solves;
  coder.group_rows = std::max<int64_t>(rows.rows, 1);
  coder.group_columns = std::max<int64_t>(rows.columns, 1);
  if (rule.format.granularity() == v1::PER_CHANNEL) coder.group_rows = 1;
  if (rule.format.granularity() == v1::PER_BLOCK) {
    coder.group_rows = rule.format.block_rows();
    coder.group_columns = rule.format.block_columns();
  }
  coder.groups_per_row = (rows.columns + coder.group_columns - 1) / coder.group_columns;
  const auto size = static_cast<size_t>(ByteSize(rule.scale_dtype));
  for (size_t at = 0; at < scales.size(); at += size) {
    coder.scales.push_back(LoadElement(rule.scale_dtype, scales.data() + at));
  }
  return coder;
}

Coder CoderOfValues(const WeightRows& rows) {
  Coder coder;
  coder.source = SourceTypeOf(rows.dtype);
  coder.scales = {1.0f};
  coder.group_rows = std::max<int64_t>(rows.rows, 1);
  coder.group_columns = std::max<int64_t>(rows.columns, 1);
  return coder;
}

float SourceAt(const WeightRows& rows, int64_t row, int64_t channel) {
  return FlushSubnormal(LoadElement(rows.dtype, ElementAt(rows, row, channel)));
}

uint32_t LoadStored(const Coder& coder, std::span<const std::byte> stored, int64_t index) {
  const auto size = static_cast<size_t>(coder.ByteSize());
  uint32_t bits = 0;  // little endian, as everything on disk
  std::memcpy(&bits, stored.data() + static_cast<size_t>(index) * size, size);
  return bits;
}

void StoreStored(const Coder& coder, uint32_t bits, std::span<std::byte> stored, int64_t index) {
  const auto size = static_cast<size_t>(coder.ByteSize());
  std::memcpy(stored.data() + static_cast<size_t>(index) * size, &bits, size);
}

}  // namespace octavo
