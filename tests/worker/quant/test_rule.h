#pragma once

// Rules as the tests of worker/quant write them.

#include "core/tensor/dtype.h"
#include "worker/quant/quantizer.h"

namespace octavo {

// Blocks are of 128 x 128.
inline QuantizeRule TestRule(v1::NumericType type, v1::Granularity granularity,
                             v1::Algorithm algorithm = v1::ABSMAX,
                             DType scale_dtype = DType::kF32) {
  QuantizeRule rule;
  rule.format.set_type(type);
  rule.format.set_granularity(granularity);
  if (granularity == v1::PER_BLOCK) {
    rule.format.set_block_rows(128);
    rule.format.set_block_columns(128);
  }
  rule.algorithm = algorithm;
  rule.scale_dtype = scale_dtype;
  return rule;
}

}  // namespace octavo
